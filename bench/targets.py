"""What must hold, and whether it does: the targets, and verdicts on what was found.

Ratios are medians of rounds in which both sides ran next to each other. `must` is a bound; `aim`
is what is hoped for beyond it, where there is such a thing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Found = Mapping[str, Any]
TIMES = "\N{MULTIPLICATION SIGN}"
FAST_ENOUGH = 18_000.0
"""Only a machine that does as many tasks a second flat out is asked to carry 12,000."""


class Verdict(StrEnum):
    """Whether a target is met."""

    MET = "met"
    MISSED = "missed"
    NOT_ASKED = "not asked"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Target:
    """A bound on one figure. `read` finds it, and raises KeyError where it was not measured."""

    what: str
    must: float
    unit: str
    read: Callable[[Found], float]
    at_least: bool = False
    aim: float | None = None
    asked: Callable[[Found], bool] = lambda _: True

    def verdict(self, found: Found) -> tuple[float | None, Verdict]:
        """Return the figure and what is to be said of it."""
        asked = self.asked(found)
        try:
            figure = self.read(found)
        except KeyError:
            return None, Verdict.NOT_MEASURED if asked else Verdict.NOT_ASKED
        if not asked:
            return figure, Verdict.NOT_ASKED
        met = figure >= self.must if self.at_least else figure <= self.must
        return figure, Verdict.MET if met else Verdict.MISSED

    def bound(self, value: float | None) -> str:
        """Return a bound as it is shown."""
        if value is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {shown(value, self.unit)}"


def shown(value: float, unit: str) -> str:
    """Return a figure with its unit: three digits, but all of those before the point."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2  # noqa: PLR2004 - digits
    text = f"{value:,.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} {unit}".rstrip()


def _ratio(name: str) -> Callable[[Found], float]:
    return lambda found: float(found["ratios"][name])


def _open(name: str, figure: str) -> Callable[[Found], float]:
    return lambda found: float(found["open_loop"][name][figure])


def _fast(found: Found) -> bool:
    sides = found.get("flat_out", {})
    return "maniple_map" not in sides or bool(sides["maniple_map"]["rate"] >= FAST_ENOUGH)


def _carried(found: Found) -> float:
    return float(found["open_loop"]["sdk_12000"]["achieved"]) / 12_000 * 100


TARGETS = (
    Target(
        "flat out by `client.map`, to Celery's rate with results",
        30,
        TIMES,
        _ratio("map_to_celery"),
        at_least=True,
    ),
    Target(
        "flat out by `client.map`, to Dramatiq's rate without results",
        4,
        TIMES,
        _ratio("map_to_dramatiq"),
        at_least=True,
    ),
    Target(
        "processor time a task flat out, all processes and broker: Celery's to ours",
        25,
        TIMES,
        _ratio("celery_cost_to_map"),
        at_least=True,
    ),
    Target(
        "one task a message with reply, to Celery's rate with results",
        6,
        TIMES,
        _ratio("single_to_celery"),
        at_least=True,
    ),
    Target(
        "one task a message, no reply, confirms: processor time to that of Dramatiq with confirms",
        1,
        TIMES,
        _ratio("single_cost_to_dramatiq"),
    ),
    Target("at 60 % of its rate flat out, p50", 10, "ms", _open("sdk_60_percent", "p50")),
    Target("at 60 % of its rate flat out, p99", 40, "ms", _open("sdk_60_percent", "p99")),
    Target(
        "12,000/s through the SDK carried (asked where flat out ≥ 18,000/s)",
        97,
        "%",
        _carried,
        at_least=True,
        asked=_fast,
    ),
    Target("12,000/s through the SDK, p50", 10, "ms", _open("sdk_12000", "p50"), asked=_fast),
    Target("200/s through the SDK, p50", 3.2, "ms", _open("sdk_200", "p50")),
    Target("200/s through the SDK, p99", 5.5, "ms", _open("sdk_200", "p99")),
    Target("1,000/s, one task a message, p50", 6, "ms", _open("single_1000", "p50")),
    Target("1,000/s, one task a message, p99", 20, "ms", _open("single_1000", "p99")),
    Target(
        "1,000/s, one task a message, processor time a task",
        900,
        "µs",
        _open("single_1000", "us total"),
    ),
    Target(
        "bytes through the broker a task, payload of 20 bytes",
        700,
        "B",
        lambda found: float(found["bytes"]["maniple_map"]["received"]),
    ),
    Target(
        "resident memory at rest, the largest of our processes",
        60,
        "MiB",
        lambda found: float(max(found["memory_at_rest"].values())),
    ),
)


def rows(found: Found) -> list[dict[str, str]]:
    """Return the table of targets: what, must, aim, found and verdict."""
    table = []
    for target in TARGETS:
        figure, verdict = target.verdict(found)
        table.append(
            {
                "what": target.what,
                "must": target.bound(target.must),
                "aim": target.bound(target.aim),
                "found": "" if figure is None else shown(figure, target.unit),
                "verdict": verdict.value,
            }
        )
    return table
