"""What is computed from measurements: percentiles, medians, ratios round by round, and costs.

Pure functions. Seconds come in; milliseconds and microseconds, as their names say, come out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
CARRIED = 0.97
"""A rate is carried if as large a part of it came back within the time of its arrivals."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of the `ordered` values do not exceed."""
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    rank = -(-len(ordered) * share // 1)  # rounded up
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return percentiles and the maximum of latencies, in ms."""
    ordered = sorted(seconds)
    found = {name: round(percentile(ordered, part) * 1e3, 2) for name, part in PERCENTILES.items()}
    return {**found, "max": round(ordered[-1] * 1e3, 2)}


def from_due(due: Sequence[float], ended: Sequence[float]) -> list[float]:
    """Return how long each task took from the moment at which it was due.

    Not from when it was submitted: a client that is held up by the cluster submits late, and to
    count from then would omit just the tasks that waited longest.
    """
    return [end - begin for begin, end in zip(due, ended, strict=True)]


def carried(rate: float, achieved: float) -> bool:
    """Tell whether a rate was kept up with."""
    return achieved >= CARRIED * rate


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return ours by theirs for each round: what ran next to each other is compared."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def middle_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return median(ratios(ours, theirs))


def microseconds(spent: Mapping[str, float], tasks: int) -> dict[str, float]:
    """Return µs of processor time a task by group of processes, with their `total`."""
    each = {group: seconds / tasks * 1e6 for group, seconds in spent.items()}
    return {**each, "total": sum(each.values())}


@dataclass(frozen=True)
class Run:
    """One run: tasks, tasks a second, and the µs of processor time of each group for a task."""

    tasks: int
    rate: float
    cost: Mapping[str, float]


def medians(runs: Sequence[Run]) -> dict[str, object]:
    """Return the medians of some runs of the same side, and the rates and costs of each."""
    groups = {group for run in runs for group in run.cost}
    cost = {g: round(median(run.cost.get(g, 0.0) for run in runs), 1) for g in sorted(groups)}
    return {
        "tasks": runs[-1].tasks,
        "rate": round(median(run.rate for run in runs)),
        "microseconds": cost,
        "rates": [round(run.rate) for run in runs],
        "totals": [round(run.cost["total"], 1) for run in runs],
    }


def middle_of(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the rounds that have it."""
    names = dict.fromkeys(name for one in rounds for name in one)
    return {name: round(median(one[name] for one in rounds if name in one), 2) for name in names}
