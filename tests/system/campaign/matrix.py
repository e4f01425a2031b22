"""The matrix: a row for each fault, for the terminal and for the documentation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

NONE = "-"


@dataclass(frozen=True)
class Row:
    """What one fault did. Seconds are counted from the fault, `whole` from its end.

    None where there was nothing of it: nothing detected, nothing moved. `moved_later` are the tasks
    with an affinity key.
    """

    fault: str
    tasks: int
    lost: int
    suspected: float | None = None
    failed: float | None = None
    whole: float | None = None
    moved: int = 0
    migrated: float | None = None
    moved_later: int = 0
    migrated_later: float | None = None
    re_executed: int = 0
    late: int = 0
    problems: tuple[str, ...] = ()


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f} s"


def _detected(row: Row) -> str:
    parts = {"unreachable": row.suspected, "failed": row.failed}
    return ", ".join(f"{name} {_seconds(t)}" for name, t in parts.items() if t is not None) or NONE


def _migrated(count: int, seconds: float | None) -> str:
    return NONE if seconds is None else f"{count} in {seconds:.2f} s"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("fault", lambda row: row.fault),
    ("tasks", lambda row: f"{row.tasks:,}"),
    ("detected in", _detected),
    ("migrated", lambda row: _migrated(row.moved, row.migrated)),
    ("with affinity", lambda row: _migrated(row.moved_later, row.migrated_later)),
    ("all well after", lambda row: _seconds(row.whole)),
    ("re-executed", lambda row: str(row.re_executed)),
    ("late results refused", lambda row: str(row.late)),
    ("lost", lambda row: str(row.lost)),
)


def table_of(rows: Sequence[Row]) -> Table:
    """Return the matrix for a terminal."""
    table = Table(box=None, pad_edge=False)
    for number, (title, _) in enumerate(COLUMNS):
        table.add_column(title, justify="right" if number else "left")
    for row in rows:
        table.add_row(
            *(show(row) for _, show in COLUMNS), style="red" if row.lost or row.problems else ""
        )
    return table


def markdown_of(rows: Sequence[Row]) -> str:
    """Return the matrix for a page."""
    lines = [
        [title for title, _ in COLUMNS],
        ["---", *["---:"] * (len(COLUMNS) - 1)],
        *([show(row) for _, show in COLUMNS] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
