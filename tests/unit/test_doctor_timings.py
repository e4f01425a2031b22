"""What `maniple doctor` makes of the times that processes keep."""

import math
from typing import Any

import pytest

from maniple.timings import Timings
from maniple_cli.checks.findings import CheckVerdict
from maniple_cli.checks.timings import timings

HALF = Timings().scaled(0.5)


def page(service: str, kept: Timings | None = None) -> dict[str, Any]:
    return {"service": service, "timings": (kept or Timings()).shown()}


def test_equal_times_are_well() -> None:
    found = timings({"r1": page("registry"), "a1": page("agent"), "d1": page("dispatcher")})
    assert found.verdict is CheckVerdict.OK
    assert found.found == "3 processes keep the same times (failed after 9 s)"


def test_an_agent_that_stops_later_than_a_registry_gives_its_tasks_away_is_a_failure() -> None:
    pages = {"r1": page("registry"), "r2": page("registry", HALF), "a1": page("agent")}
    found = timings(pages)
    assert found.verdict is CheckVerdict.FAILED
    assert "a1 stop it within 8.25 s of silence, and r2 gives it to others after 4.5 s" in (
        found.found
    )
    assert "MANIPLE_TIME_SCALE" in found.advice
    assert "MANIPLE_FAILED_AFTER" in found.advice


def test_processes_that_differ_are_named_with_what_they_keep() -> None:
    pages = {f"a{number}": page("agent", HALF) for number in range(5)}
    found = timings({**pages, "r1": page("registry"), "d1": page("dispatcher", HALF)})
    assert found.verdict is CheckVerdict.WARNING
    first, second = found.found.split("; ")
    assert first.startswith("a0, a1, a2 and 3 more: heartbeat 1.65 s, unreachable 2.25 s")
    assert second.startswith("r1: heartbeat 3.3 s")


def test_times_that_differ_only_in_what_is_not_told_are_named_too() -> None:
    other = page("dispatcher")
    other["timings"] = other["timings"] | {"digest": "abc"}
    found = timings({"r1": page("registry"), "a1": page("agent"), "d1": other})
    assert found.verdict is CheckVerdict.WARNING
    assert "d1: other times than these (abc)" in found.found


def test_older_processes_and_those_that_tell_nonsense_are_named() -> None:
    odd = page("agent")
    odd["timings"] = odd["timings"] | {"failed": "soon"}
    found = timings({"r1": page("registry"), "a1": odd, "a2": {"service": "agent"}, "a3": {}})
    assert (found.verdict, found.advice) == (CheckVerdict.WARNING, "upgrade them")
    assert found.found.startswith("a1, a2, a3 do not tell")
    assert timings({"a1": odd}).verdict is CheckVerdict.SKIPPED


def test_an_older_process_keeps_the_times_of_before() -> None:
    slow, older = Timings().scaled(2), {"service": "agent"}
    found = timings({"r1": page("registry", HALF), "a1": older})
    assert found.verdict is CheckVerdict.FAILED
    assert "a1 stop it within 8.25 s of silence, and r1 gives it to others after 4.5 s" in (
        found.found
    )
    assert timings({"r1": {"service": "registry"}, "a1": page("agent", slow)}).verdict is (
        CheckVerdict.FAILED
    )


@pytest.mark.parametrize("number", [10**400, math.nan, math.inf, -1, 0, True])
def test_numbers_that_are_no_times_are_nonsense_too(number: float) -> None:
    odd = page("registry")
    odd["timings"] = odd["timings"] | {"failed": number}
    found = timings({"r1": odd, "r2": page("registry", HALF), "a1": page("agent")})
    assert found.verdict is CheckVerdict.FAILED
    assert "r2" in found.found
