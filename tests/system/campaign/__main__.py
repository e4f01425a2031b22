"""`make campaign`: inject every fault, print the matrix, write it to docs/failure-matrix.md."""

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from system.brokers import BrokerKind
from system.campaign.matrix import Row, table_of
from system.campaign.page import PAGE, memory_of, page_of
from system.campaign.run import Options, Outcome, run
from system.campaign.table import AGENTS


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides everything that is random")
    parser.add_argument("--broker", type=BrokerKind, choices=list(BrokerKind), default="native")
    parser.add_argument("--short", action="store_true", help="the form that the tests have")
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--logs", type=Path, help="where to put the logs of all processes")
    return parser.parse_args()


async def watched(options: Options, folder: Path, console: Console) -> Outcome:
    """Run with a progress bar."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=options.total)

        def show(name: str, ended: int, rows: list[Row]) -> None:
            progress.update(bar, description=name, completed=ended)
            for row in rows[-1:]:
                progress.print("; ".join((row.fault, *(row.problems or ["as it should be"]))))

        return await run(options, folder, show)


def main() -> None:
    """Run a campaign; exit with 1 when anything was not as it has to be."""
    given = arguments()
    options = Options(**vars(given))
    console = Console(width=None if sys.stdout.isatty() else 140)
    logging.getLogger("maniple").setLevel(logging.ERROR)  # connections are lost all the time here
    with tempfile.TemporaryDirectory(prefix="maniple-campaign-") as folder:
        outcome = asyncio.run(watched(options, Path(folder), console))
    console.print(table_of(outcome.rows))
    console.print(memory_of(outcome))
    for problem in outcome.complaints:
        console.print(problem, style="red")
    if not options.short and not options.only and not outcome.complaints:
        PAGE.write_text(page_of(options, outcome, agents=AGENTS, before=PAGE.read_text()))
        console.print(f"written to {PAGE}")
    sys.exit(bool(outcome.complaints))


if __name__ == "__main__":
    main()
