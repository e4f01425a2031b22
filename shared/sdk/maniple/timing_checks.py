"""Which rules the times of a cluster break, each told as a sentence with the times. Pure."""

import math
from collections.abc import Iterator
from dataclasses import fields
from functools import reduce
from typing import TYPE_CHECKING, Any

from maniple.timing_rules import RULES, SETTINGS, TimingRule

if TYPE_CHECKING:
    from maniple.timings import Timings


def complaints(timings: "Timings") -> list[str]:
    """Return the rules that these timings break, each as a sentence."""
    odd = [
        f"{_names((path,))} must be a number above 0, not {value:g}"
        for path, value, is_share in _all(timings)
        if not math.isfinite(value) or value < 0 or (value == 0 and not is_share)
    ]
    return odd or [found for rule in RULES if (found := complaint(rule, timings)) is not None]


def complaint(rule: TimingRule, timings: "Timings") -> str | None:
    """Return a sentence about a broken rule, with all times concerned."""
    low, high = _sum(timings, rule.less), _sum(timings, rule.more)
    slack = 1e-9 * high  # what scaling adds and takes
    if low < high - slack or (rule.equal and low <= high + slack):
        return None
    relation = "at most" if rule.equal else "less than"
    return (
        f"{_names(rule.less)} ({low:g} s) must be {relation} {_names(rule.more)} ({high:g} s): "
        f"{rule.why}"
    )


def _all(timings: "Timings") -> Iterator[tuple[str, float, bool]]:
    for group in fields(timings):
        part = getattr(timings, group.name)
        for one in fields(part):
            is_share = bool(one.metadata.get("share"))
            yield f"{group.name}.{one.name}", getattr(part, one.name), is_share


def _sum(timings: "Timings", paths: tuple[str, ...]) -> float:
    found: list[Any] = [reduce(getattr, path.split("."), timings) for path in paths]
    return float(sum(found))


def _names(paths: tuple[str, ...]) -> str:
    """Return times by name, each with the variable that sets it if there is one."""
    if len(paths) > 1 and len(set(paths)) == 1:
        return f"{len(paths)} times {_names(paths[:1])}"
    return " and ".join(f"{p} [{SETTINGS[p]}]" if p in SETTINGS else p for p in paths)
