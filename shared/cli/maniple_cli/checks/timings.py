"""Whether all processes use the same timings, by what they report at `/health`."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from maniple.timing_rules import SETTINGS
from maniple_cli.checks.findings import CheckVerdict, Finding
from maniple_runtime.control.agent_timings import UNTOLD

CHECK = "timings"
SHOWN = 3
NUMBERS = ("heartbeat", "unreachable", "fenced", "exclusive", "failed")
ADVICE = (
    f"give all processes the same MANIPLE_TIME_SCALE, {', '.join(SETTINGS.values())} (and the same "
    "version), and restart those that differ"
)

Told = Mapping[str, Any]


def timings(pages: Mapping[str, Told]) -> Finding:
    """Judge the timings that processes report, by instance."""
    told = {instance: _told(page) for instance, page in pages.items()}
    silent = sorted(instance for instance, one in told.items() if not one)
    known = {instance: one for instance, one in told.items() if one}
    if not known:
        return Finding(CHECK, CheckVerdict.SKIPPED, "no process tells its times")
    twice = _run_twice(pages, told)
    if twice:
        return Finding(CHECK, CheckVerdict.FAILED, twice, ADVICE)
    if len({one["digest"] for one in known.values()}) > 1:
        return Finding(CHECK, CheckVerdict.WARNING, "; ".join(_differing(known)), ADVICE)
    if silent:
        found = f"{_some(silent)} do not tell their times: they are older"
        return Finding(CHECK, CheckVerdict.WARNING, found, "upgrade them")
    seconds = next(iter(known.values()))
    found = f"{len(known)} processes keep the same times (failed after {seconds['failed']:g} s)"
    return Finding(CHECK, CheckVerdict.OK, found)


def _told(page: Told) -> Told:
    """Return the timings in a page, or nothing if they are not in our format."""
    told = page.get("timings")
    if not isinstance(told, dict) or not isinstance(told.get("digest"), str):
        return {}
    return told if all(_is_time(told.get(name)) for name in NUMBERS) else {}


def _is_time(value: Any) -> bool:
    try:
        return type(value) in (int, float) and 0 < float(value) < math.inf
    except OverflowError:
        return False


def _run_twice(pages: Mapping[str, Told], told: Mapping[str, Told]) -> str:
    """Return which agents stop exclusive tasks later than a registry gives them to others.

    Agents that report no timings use those of older releases.
    """
    by_kind: defaultdict[str, dict[str, Told]] = defaultdict(dict)
    for instance, one in told.items():
        by_kind[str(pages[instance].get("service"))][instance] = one or UNTOLD.model_dump()
    if not by_kind["registry"] or not by_kind["agent"]:
        return ""
    first, bounds = min(by_kind["registry"].items(), key=lambda item: float(item[1]["failed"]))
    late = sorted(a for a, one in by_kind["agent"].items() if one["exclusive"] >= bounds["failed"])
    if not late:
        return ""
    seconds = max(float(by_kind["agent"][agent]["exclusive"]) for agent in late)
    return (
        f"an exclusive task may run twice: {_some(late)} stop it within {seconds:g} s of silence, "
        f"and {first} gives it to others after {bounds['failed']:g} s"
    )


def _differing(known: Mapping[str, Told]) -> list[str]:
    """Return which processes use which timings, the largest group first."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for instance, one in sorted(known.items()):
        groups[one["digest"]].append(instance)
    seconds = {name: {one[name] for one in known.values()} for name in NUMBERS}
    differ = [name for name in NUMBERS if len(seconds[name]) > 1]
    said = []
    for digest, instances in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        one = known[instances[0]]
        numbers = ", ".join(f"{name} {one[name]:g} s" for name in differ)
        said.append(f"{_some(instances)}: {numbers or f'other times than these ({digest})'}")
    return said


def _some(instances: Iterable[str]) -> str:
    names = list(instances)
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
