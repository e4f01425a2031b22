"""`make soak`: an hour of tasks at a fixed rate, with agents killed and connections closed in it.

It exits with 1 and says why when a process's memory, its descriptors or a queue grows, or a task
has not exactly one result. How each is judged: `judging.py`, `sampling.py` and `accounts.py`.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from needs import CONSUL, PROC, RABBITMQ, need
from system.soak.accounts import Accounts
from system.soak.run import Options, Outcome, run
from system.soak.table import report

LEAST = 10.0  # minutes


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=Options.minutes)
    parser.add_argument("--rate", type=float, default=Options.rate, help="tasks a second")
    parser.add_argument("--logs", type=Path, help="where to put all logs and samples")
    given = parser.parse_args()
    if given.minutes < LEAST:
        parser.error(f"--minutes is at least {LEAST:g}: before that, processes still warm up")
    return given


async def watched(options: Options, folder: Path, console: Console) -> Outcome:
    """Run with a progress bar."""
    columns = (
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=options.seconds)

        def show(last: str, passed: float, accounts: Accounts) -> None:
            said = f"{accounts.told:,} ended, {accounts.open:,} under way; {last}"
            progress.update(bar, description=said, completed=passed)

        return await run(options, folder, show)


def main() -> None:
    """Run a soak; exit with 1 when anything grew or was lost."""
    need(RABBITMQ, CONSUL, PROC)
    options = Options(**vars(arguments()))
    console = Console(width=None if sys.stdout.isatty() else 140)
    logging.getLogger("maniple").setLevel(logging.ERROR)  # connections are closed here
    with tempfile.TemporaryDirectory(prefix="maniple-soak-") as folder:
        outcome = asyncio.run(watched(options, Path(folder), console))
    report(outcome, console)
    sys.exit(bool(outcome.complaints))


if __name__ == "__main__":
    main()
