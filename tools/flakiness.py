"""Run chosen tests N times, alone and under load, and print how often each failed.

Nothing is retried and no failure is hidden: a test that failed once is to be understood. Each run
is a pytest of its own, so that no run finds what another has left; what the tests of a run share
(servers, clusters) is counted with the first test that needs it. A run that crashed, or that took
longer than `--timeout`, failed. Exit code: 0 everything passed, 1 something failed, 2 wrong usage,
or nothing was run.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flaky_report import Run, Side, as_json, as_text, read_journal, tally

HERE = Path(__file__).resolve().parent
# It looks whether it is still wanted: nobody can end it for a parent that was killed.
BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(100_000))"
LAST_WORDS = 5.0  # seconds in which a process that hangs tells where, and its servers are ended
MISUSED, NOTHING_FOUND = 4, 5  # exit codes of pytest
DONE, FOUND, WRONG_USAGE, BY_SIGNAL = 0, 1, 2, 128
ENDED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal ends the program; what was found until then is still printed."""


class Misused(Exception):
    """pytest was called with wrong arguments; carries its output."""


@dataclass(frozen=True)
class Plan:
    """What is to be run: `runs` times on each side, a run at most `timeout` seconds."""

    tests: Sequence[str]
    folder: Path
    runs: int = 10
    load: int = 4
    sides: Sequence[Side] = tuple(Side)
    timeout: float = 900.0

    def order(self) -> list[Side]:
        """Return the sides in the order of the runs: in turn, so that both see the same machine."""
        return [side for _ in range(self.runs) for side in self.sides]


@contextlib.contextmanager
def load(number: int) -> Iterator[list[int]]:
    """Run this many busy loops beside the block; gives their process ids."""
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            argv = [sys.executable, "-S", "-E", "-c", BUSY, str(os.getpid())]
            loops.append(subprocess.Popen(argv))  # noqa: S603 - our own text
        yield [loop.pid for loop in loops]
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()


def carry_out(plan: Plan, begins: Callable[[Side], None]) -> Generator[Run]:
    """Do all runs and yield each as it ends; `begins` is called before each. Raises `Misused`."""
    for number, side in enumerate(plan.order(), 1):
        begins(side)
        with load(plan.load if side is Side.LOADED else 0):
            run = _run(plan, number, side)
        yield run


def _run(plan: Plan, number: int, side: Side) -> Run:
    output = plan.folder / f"run-{number:03}-{side}.txt"
    journal = output.with_suffix(".jsonl")
    journal.write_text("")
    arguments = ["-v", "-p", "no:cacheprovider", f"--junitxml={output.with_suffix('.xml')}"]
    argv = [sys.executable, str(HERE / "flaky_journal.py"), str(journal), *arguments, *plan.tests]
    with output.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - who chose the tests runs them
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        broken = _wait(process, plan.timeout)
    if process.returncode in {MISUSED, NOTHING_FOUND}:
        raise Misused(output.read_text(errors="replace").strip())
    ended = read_journal(journal.read_text().splitlines(), process.returncode, broken)
    run = Run(side, ended, output)
    if not run.failed:
        for made in (output, journal, output.with_suffix(".xml")):
            made.unlink(missing_ok=True)
    return run


def _wait(process: subprocess.Popen[bytes], timeout: float) -> str:
    """Wait for a run; return why it was ended from outside, if it was; kills what is left."""
    broken = ""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        broken = f"the run took longer than {timeout:g} s"
        process.send_signal(signal.SIGABRT)  # has it write where each thread is
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_WORDS)
    finally:
        with contextlib.suppress(ProcessLookupError):  # what it started may outlive it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return broken


class Teller:
    """Shows progress: a bar on a terminal, else a line for each run."""

    def __init__(self, total: int, console: Console) -> None:
        """Start with no run done."""
        self._total, self._console = total, console
        self._failed = 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        hidden = not console.is_terminal
        self.bar = Progress(*columns, TimeElapsedColumn(), console=console, disable=hidden)
        self._task = self.bar.add_task("", total=total)

    def begins(self, side: Side) -> None:
        """Show that a run starts."""
        self.bar.update(self._task, description=f"{side}, {self._failed} failed so far")

    def ended(self, number: int, run: Run) -> None:
        """Show how a run ended."""
        self._failed += bool(run.failed)
        self.bar.update(self._task, advance=1)
        if run.failed or not self._console.is_terminal:
            what = f"failed {', '.join(run.failed)}" if run.failed else "passed"
            line = f"run {number} of {self._total}, {run.side}: {what}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _end(number: int, _frame: FrameType | None) -> None:
    for ending in ENDED_BY:  # whoever presses twice must not keep us from ending the run
        signal.signal(ending, signal.SIG_IGN)
    raise Interrupted(number)


def _number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it is at least 1")
    return value


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser("tools/flaky", description=summary, epilog=rest)
    parser.add_argument("tests", nargs="+", help="as pytest takes them: module, module::test")
    count = partial(parser.add_argument, type=_number, metavar="N")
    count("--runs", default=10, help="on each side (10)")
    count("--load", default=4, help="busy loops (4)")
    count("--timeout", default=900, help="seconds that one run may take (900)")
    parser.add_argument("--only", choices=(*Side, "both"), default="both")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where what failed is kept")
    parser.add_argument("--json", action="store_true", help="the counts as one JSON object")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit code."""
    given = _parsed(arguments)
    for number in ENDED_BY:
        signal.signal(number, _end)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="maniple-flaky-"))
    folder.mkdir(parents=True, exist_ok=True)
    sides = tuple(Side) if given.only == "both" else (Side(given.only),)
    plan = Plan(given.tests, folder, given.runs, given.load, sides, given.timeout)
    runs: list[Run] = []
    code = DONE
    try:
        _collect(plan, runs)
    except Misused as misused:
        sys.stderr.write(f"{misused}\n")
        code = WRONG_USAGE
    except Interrupted as interrupted:
        code = BY_SIGNAL + interrupted.args[0]
    _report(runs, given, folder)
    if code != DONE:
        return code
    if any(run.failed for run in runs):
        return FOUND
    return DONE if any(run.passed for run in runs) else WRONG_USAGE


def _collect(plan: Plan, runs: list[Run]) -> None:
    teller = Teller(len(plan.order()), Console(stderr=True))
    with teller.bar, contextlib.closing(carry_out(plan, teller.begins)) as going:
        for run in going:
            runs.append(run)
            teller.ended(len(runs), run)


def _report(runs: list[Run], given: argparse.Namespace, folder: Path) -> None:
    kept = any(folder.iterdir())
    if not kept and not given.keep:
        folder.rmdir()
    tallies = tally(runs)
    if given.json:
        said = {"tests": as_json(tallies), "runs": len(runs), "load": given.load}
        print(json.dumps(said | {"folder": str(folder) if kept else None}, indent=2))
        return
    for line in as_text(tallies):
        print(line)
    print(f"full output: {folder}" if kept else "nothing failed")


if __name__ == "__main__":
    sys.exit(main())
