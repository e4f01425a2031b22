"""The cluster's time in a process, from what registries tell over a broker that may be slow."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines import NOON, TIMES, Machine, Slept
from maniple.clock import Clock
from maniple_runtime.cluster_time import COMPONENT, MOST_SOURCES, ClusterTime, follow
from maniple_runtime.control.messages import Time
from maniple_runtime.health import Health


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_what_a_registry_told_goes_on_by_the_steady_clock_whatever_the_own_one_says(
    wrong: float, steady: float
) -> None:
    machine = Machine(wrong, steady)
    assert machine.time.known() is None
    assert machine.time.now() == machine.wall()
    machine.told()
    machine.passed += 3600.0
    assert machine.ahead == pytest.approx(0, abs=1e-3)


def test_it_goes_on_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    slept, time = Slept(monkeypatch), ClusterTime(Clock(now=lambda: NOON), TIMES)
    time.on_time(Time(at=NOON, source="r1"))
    slept.seconds += 8 * 3600.0
    assert (time.now() - NOON).total_seconds() >= 8 * 3600.0


@pytest.mark.parametrize(
    ("wrong", "off"),
    [(0.0, 0), (0.05, 0), (-0.05, 0), (1.5, 0), (-0.3, -0.3), (2.5, 2.5), (120.0, 120.0)],
)
def test_what_happens_is_dated_by_the_own_clock_unless_that_is_seen_to_be_wrong(
    wrong: float, off: float
) -> None:
    machine = Machine(wrong)
    machine.told(late=0.04)
    assert machine.time.off() == pytest.approx(off, abs=0.05 if off else 0)
    assert machine.wall() - machine.time.now() == timedelta(seconds=machine.time.off())
    assert machine.ahead == pytest.approx(-0.04)  # deadlines are never judged by what is ahead


@given(st.lists(st.floats(0, 30), min_size=1, max_size=40))
def test_a_word_that_is_late_makes_nothing_early_and_the_soonest_counts(late: list[float]) -> None:
    machine = Machine()
    for delay in late:
        machine.passed += TIMES.tell
        machine.told(late=delay)
    assert machine.ahead <= 1e-3
    assert machine.ahead >= -max(late[-2:]) - 1e-3  # as good as what came last, or better


def test_a_registry_whose_clock_is_set_is_followed_at_once_or_with_its_second_word() -> None:
    machine = Machine()
    machine.told()
    machine.told(ahead=100.0)
    assert machine.ahead == pytest.approx(100)
    machine.told(ahead=-20.0)
    assert machine.ahead == pytest.approx(100)  # it may just be late
    machine.told(ahead=-20.0)
    assert machine.ahead == pytest.approx(-20)


@pytest.mark.parametrize(
    ("ahead", "counts"), [([7.0], 7), ([50.0, 0.0], 0), ([-50.0, 0.0], -50), ([0.0, 1.0, 99.0], 1)]
)
def test_of_several_registries_the_middle_one_counts(ahead: list[float], counts: float) -> None:
    machine = Machine()
    for place, seconds in enumerate(ahead):
        machine.told(ahead=seconds, source=f"r{place}")
    assert machine.ahead == pytest.approx(counts)


def test_one_that_tells_no_more_is_forgotten_and_its_time_kept_while_nobody_else_tells() -> None:
    machine = Machine(wrong=500.0)
    machine.told(ahead=-50.0, source="gone")
    machine.passed += 10 * TIMES.kept
    assert machine.ahead == pytest.approx(-50)
    machine.told(source="new")
    assert machine.ahead == pytest.approx(0)


def test_a_time_that_cannot_be_is_not_taken_and_not_more_are_kept_than_there_are_registries() -> (
    None
):
    machine = Machine()
    for year in (1, 1999, 9000, 9999):
        machine.time.on_time(Time(at=NOON.replace(year=year), source="r1"))
    assert machine.time.known() is None
    for number in range(10 * MOST_SOURCES):
        machine.told(source=f"r{number}")
    assert len(machine.time._heard) == MOST_SOURCES
    assert machine.ahead == pytest.approx(0)


@pytest.mark.parametrize(
    ("wrong", "ok", "said"),
    [(1.5, True, ""), (120.0, False, "120 s ahead of"), (-60.0, False, "60 s behind")],
)
def test_a_machine_whose_clock_is_wrong_says_so(wrong: float, ok: bool, said: str) -> None:
    machine, health = Machine(wrong), Health("agent", "a1")
    follow(machine.time, health)(Time(at=NOON, source="r1"))
    component = health.snapshot()["components"][COMPONENT]
    assert component["ok"] is ok
    assert said in component["detail"]
    assert not component["required"]
