"""Draws what bench/results.json has, as SVG for docs/performance.md.

    python -m bench.plots

It also puts the tables into the page. `make bench ARGS=--pages` does both after measuring.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.svg import Bar, Line, bars, lines, nothing_yet
from bench.targets import TIMES

FOLDER = Path(__file__).parents[1] / "docs" / "performance"
GROWTH = ("tasks a message", "bytes of payload", "capabilities", "clients", "dispatchers", "agents")
NAMES = (
    *("latency", "processor_time", "ratios"),
    *(f"growth_{name.replace(' ', '_')}" for name in GROWTH),
)
RATIOS = {
    "map_to_celery": "client.map to Celery rpc, rate",
    "map_to_dramatiq": "client.map to Dramatiq, rate",
    "celery_cost_to_map": "Celery rpc to client.map, processor time",
    "single_to_celery": "one task a message to Celery rpc, rate",
}


def write_plots(found: Mapping[str, Any]) -> list[Path]:
    """Draw what there is to draw, and return the files."""
    FOLDER.mkdir(exist_ok=True)
    written = []
    for name, picture in pictures(found).items():
        path = FOLDER / f"{name}.svg"
        path.write_text(picture)
        written.append(path)
    for name in {*NAMES} - {path.stem for path in FOLDER.glob("*.svg")}:
        (FOLDER / f"{name}.svg").write_text(nothing_yet(name.replace("_", " ")))
    return written


def pictures(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the plots by name, as far as their figures were measured."""
    drawn = {
        "latency": _latency(found.get("open_loop", {})),
        "processor_time": _processor_time(found.get("flat_out", {})),
        "ratios": _ratios(found.get("ratios", {})),
    }
    for name, points in found.get("growth", {}).items():
        drawn[f"growth_{name.replace(' ', '_')}"] = _growth(name, points)
    return {name: picture for name, picture in drawn.items() if picture}


def _latency(loops: Mapping[str, Mapping[str, float]]) -> str:
    through_sdk = sorted(
        (one for name, one in loops.items() if name.startswith("sdk")), key=lambda one: one["rate"]
    )
    series = [
        Line(figure, [(one["rate"], one[figure]) for one in through_sdk])
        for figure in ("p50", "p90", "p99", "p99.9")
    ]
    return lines("Latency from due to result, through the SDK", series, "tasks/s", "ms")


def _processor_time(sides: Mapping[str, Mapping[str, Any]]) -> str:
    found = []
    for name, one in sides.items():
        cost = {part: us for part, us in one["microseconds"].items() if part != "total"}
        found.append(Bar(name.replace("_", " "), cost))
    return bars("Processor time a task, flat out", found, "µs")


def _ratios(ratios: Mapping[str, float]) -> str:
    found = [Bar(said, {"": ratios[name]}) for name, said in RATIOS.items() if name in ratios]
    return bars("Maniple to its peers", found, TIMES)


def _growth(name: str, points: list[Mapping[str, float]]) -> str:
    costs = [Line("µs a task", [(one["x"], one["µs a task"]) for one in points])]
    return lines(f"Processor time a task by {name}", costs, name, "µs")


def main() -> None:
    """Draw what was measured last, and put its tables into the page."""
    from bench.pages import write_pages  # noqa: PLC0415 - it draws with this module
    from bench.run import RESULTS  # noqa: PLC0415 - likewise

    write_pages(json.loads(RESULTS.read_text()))


if __name__ == "__main__":
    main()
