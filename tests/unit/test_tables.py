"""Tables on terminals of any width, and in pipes."""

import io
import re
import sys
from collections.abc import Callable, Sequence

import pytest
from rich.table import Table

from maniple_cli.tables import print_table

CAPABILITIES = " ".join(f"text.capability-{n}" for n in range(30))
ROWS = [
    ("agent-on-a-host-with-a-name-3f2a91", "active", "host", "", CAPABILITIES),
    ("b", "unreachable", "host", "silent for 4.5 s", "x"),
]
TITLES = ("agent", "state", "host", "doubts", "capabilities")
Show = Callable[..., list[str]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Print the table and return its lines without colours."""

    def shown(output: io.StringIO, width: int, rows: Sequence[tuple[str, ...]] = ROWS) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stdout", output)
        table = Table(*TITLES, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        print_table(table)
        printed = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())
        return [line.rstrip() for line in printed.splitlines()]

    return shown


@pytest.mark.parametrize("width", [40, 79, 200])
def test_in_a_pipe_each_row_is_one_line(show: Show, width: int) -> None:
    lines = show(io.StringIO(), width)
    assert len(lines) == 1 + len(ROWS)
    assert lines[1].endswith(CAPABILITIES)
    assert lines[0].split() == list(TITLES)


@pytest.mark.parametrize("width", [30, 50, 70])
def test_a_narrow_terminal_shows_a_line_for_each_field(show: Show, width: int) -> None:
    lines = show(Terminal(), width)
    assert max(map(len, lines)) <= width
    assert [
        line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in TITLES
    ] == [
        *("agent", "state", "host", "capabilities"),
        *TITLES,
    ]
    shown = "".join("".join(lines).split())
    assert all(cell.replace(" ", "") in shown for row in ROWS for cell in row)


@pytest.mark.parametrize("width", [100, 120, 150])
def test_where_it_fits_only_the_last_column_is_folded(show: Show, width: int) -> None:
    lines = show(Terminal(), width)
    assert lines[0].split() == list(TITLES)
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "agent",
        *(row[0] for row in ROWS),
    ]


def test_wide_letters_take_the_room_that_they_take(show: Show) -> None:
    rows = [("日本語", "active", "host", "", "x"), ("b", "active", "host", "", "y")]
    first, second = show(io.StringIO(), 10, rows)[1:]
    assert first.index("active") + 3 == second.index("active")
