"""Tables of what was found: for a terminal and, between markers, for docs/performance.md."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.sides import SIDES
from bench.targets import rows

Row = Sequence[str]
_MARKED = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
COMPONENTS = ("client", "dispatchers", "agents", "registry, policy, Consul", "workers", "broker")


def markdown(head: Row, body: Iterable[Row]) -> str:
    """Return a Markdown table; a `|` in a cell is escaped."""
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def aligned(head: Row, body: Sequence[Row]) -> str:
    """Return the same for a terminal."""
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *body]
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def machine_table(found: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Return what the figures are of."""
    about = found.get("machine", {})
    kept = (
        "cores",
        "processor",
        "memory_gib",
        "python",
        "rabbitmq",
        "commit",
        "date",
        "load_before",
    )
    return ["measured on", ""], [[name, str(about[name])] for name in kept if name in about]


def target_table(found: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Return the targets with what was found; no column of aims if there are none."""
    table = rows(found) if "flat_out" in found else []
    names = [
        name for name in ("what", "must", "aim", "found", "verdict") if any(r[name] for r in table)
    ]
    head = {"verdict": ""}
    return [head.get(name, name) for name in names], [
        [row[name] for name in names] for row in table
    ]


def flat_table(found: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Return rates and processor time a task of each side."""
    head = ["flat out", "tasks/s", "µs a task", *COMPONENTS]
    body: list[Row] = []
    for side in SIDES:
        if (one := found.get("flat_out", {}).get(side.name)) is not None:
            cost = one["microseconds"]
            each = [f"{cost[part]:.0f}" if part in cost else "" for part in COMPONENTS]
            body.append([side.label, f"{one['rate']:,}", f"{cost['total']:.0f}", *each])
    return head, body


def open_table(found: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Return latencies at fixed rates, in ms, and processor time a task."""
    figures = ("p50", "p90", "p99", "p99.9")
    head = ["open loop", "tasks/s", "came back", *figures, "µs a task"]
    body: list[Row] = [
        [
            "one task a message" if name.startswith("single") else "SDK",
            f"{one['rate']:,.0f}",
            f"{one['achieved'] / one['rate']:.0%}",
            *(f"{one[figure]:.1f}" for figure in figures),
            f"{one['us total']:.0f}",
        ]
        for name, one in found.get("open_loop", {}).items()
    ]
    return head, body


def rest_table(found: Mapping[str, Any]) -> tuple[Row, list[Row]]:
    """Return the memory of our processes at rest, and bytes a task through the broker."""
    body: list[Row] = [
        [f"{name}, resident at rest", f"{size:.0f} MiB"]
        for name, size in found.get("memory_at_rest", {}).items()
    ]
    labels = {side.name: side.label for side in SIDES}
    body += [
        [f"{labels[name]}: bytes a task", f"{one['received']:.0f} in, {one['sent']:.0f} out"]
        for name, one in found.get("bytes", {}).items()
    ]
    return ["", ""], body


def series_table(found: Mapping[str, Any], section: str) -> tuple[Row, list[Row]]:
    """Return a section of the full form: a row for each point of each of its series."""
    series = found.get(section, {})
    columns = dict.fromkeys(key for points in series.values() for one in points for key in one)
    body: list[Row] = [
        [name, *(_number(one.get(column, "")) for column in columns)]
        for name, points in series.items()
        for one in points
    ]
    return [section, *columns], body


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"  # noqa: PLR2004 - digits
    return f"{value:,}" if isinstance(value, int) else str(value)


SECTIONS = ("growth", "efficiency", "backlog", "fairness", "features", "stages")


def tables(found: Mapping[str, Any]) -> dict[str, tuple[Row, list[Row]]]:
    """Return all tables by name, without the empty ones."""
    all_of_them = {
        "machine": machine_table(found),
        "targets": target_table(found),
        "flat_out": flat_table(found),
        "open_loop": open_table(found),
        "rest": rest_table(found),
        **{section: series_table(found, section) for section in SECTIONS},
    }
    return {name: table for name, table in all_of_them.items() if table[1]}


def rendered(page: str, found: Mapping[str, Any]) -> str:
    """Return a page whose tables between markers are these; those that were not found stay."""
    new = {name: markdown(*table) for name, table in tables(found).items()}

    def put(match: re.Match[str]) -> str:
        table = new.get(match[2])
        return match[0] if table is None else f"{match[1]}{table}{match[3]}"

    return _MARKED.sub(put, page)
