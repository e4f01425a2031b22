"""Writes docs/performance.md anew: its tables between markers, and its plots."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.plots import write_plots
from bench.tables import rendered

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def write_pages(found: Mapping[str, Any]) -> None:
    """Put what was found into the page and beside it."""
    PAGE.write_text(rendered(PAGE.read_text(), found))
    write_plots(found)
