"""Tables that can be read wherever they are printed."""

import sys
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maniple_cli.output import console

LEAST = 24  # columns for what stands last, which alone is folded
GAP = 2  # that rich leaves beside each column
LINES = 25


def print_table(table: Table) -> None:
    """Print a table with one line per row, unless a terminal is too narrow.

    There only the last column is folded; where the others leave no room for it each row becomes a
    paragraph with a line for each field.
    """
    widths = [_width(str(column.header), *map(str, column.cells)) for column in table.columns]
    for column in table.columns[:-1]:
        column.no_wrap = True
    if not sys.stdout.isatty():
        # With a height too, or rich goes by the environment.
        width = sum(widths) + GAP * len(widths)
        plain = Console(highlight=False, markup=False, emoji=False, width=width, height=LINES)
        plain.print(table)
        return
    screen = console()
    if sum(widths[:-1]) + GAP * len(widths) + min(widths[-1], LEAST) <= screen.width:
        screen.print(table)
        return
    titles = [str(column.header) for column in table.columns]
    for cells in zip_longest(*(column.cells for column in table.columns), fillvalue=""):
        for title, cell in zip(titles, cells, strict=True):
            if str(cell):
                line = Text(f"{title:<{_width(*titles) + GAP}}{cell}", overflow="fold")
                screen.print(line)
        screen.print()


def _width(*texts: str) -> int:
    return max(map(cell_len, texts))
