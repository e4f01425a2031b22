"""Showing a demonstration's progress: bars on a terminal, plain lines anywhere else."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

LINE_SECONDS = 3.0


class DemoScreen(Protocol):
    """The output of a demonstration."""

    def __enter__(self) -> Self:
        """Start showing."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the screen as it is."""
        ...

    def say(self, what: RenderableType) -> None:
        """Show an event."""
        ...

    def show(self, phase: str, shares: Mapping[str, int], total: int) -> None:
        """Show that `shares` of `total` are done in a phase."""
        ...


def screen_for(console: Console) -> DemoScreen:
    """Return the screen that fits a console."""
    return Bars(console) if console.is_terminal else Lines(console)


class Lines:
    """A line every few seconds, and one at the end of each phase."""

    def __init__(self, console: Console) -> None:
        """Print to `console`."""
        self._console = console
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: what was printed stays."""

    def say(self, what: RenderableType) -> None:
        """See `DemoScreen`."""
        self._console.print(what)

    def show(self, phase: str, shares: Mapping[str, int], total: int) -> None:
        """See `DemoScreen`."""
        done = sum(shares.values())
        if (now := time.monotonic()) < self._next and done < total:
            return
        self._next = now + LINE_SECONDS
        parts = ", ".join(f"{name} {count:,}" for name, count in sorted(shares.items()))
        names = f" ({parts})" if len(shares) > 1 else ""
        self.say(f"{phase}: {done:,} of {total:,}{names}")


class Bars:
    """A bar for each phase, and below it one for the share of each agent."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`."""
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(40),
            MofNCompleteColumn(),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, what: RenderableType) -> None:
        """See `DemoScreen`."""
        self._progress.console.print(what)

    def show(self, phase: str, shares: Mapping[str, int], total: int) -> None:
        """See `DemoScreen`."""
        self._bar(phase, sum(shares.values()), total)
        if len(shares) > 1:
            for name in sorted(shares):
                self._bar(f"  {name}", shares[name], total)

    def _bar(self, name: str, done: int, total: int) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._bars[name], completed=done)
