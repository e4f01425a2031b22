"""How many tasks have run where nothing comes back, and what a client's actions are made of.

Agents and peers' workers import this: it needs nothing but the standard library.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

URL_VARIABLE = "BENCH_URL"
PREFETCH_VARIABLE = "BENCH_PREFETCH"
TALLY_VARIABLE = "BENCH_TALLY"
TIMEOUT = 120.0
POLL = 0.002

Action = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""What a client can be told to do: it takes the command's fields and returns the answer's."""


class Tally:
    """How many tasks have run in all workers, where a peer returns nothing: a byte for each."""

    def __init__(self, file: Path) -> None:
        """Count in `file`, which is created."""
        self.file = file
        self.descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self) -> None:
        """Count one; from any process."""
        os.write(self.descriptor, b".")

    @property
    def count(self) -> int:
        """Tasks so far."""
        return self.file.stat().st_size

    def wait(self, count: int) -> None:
        """Return when so many have run."""
        deadline = time.monotonic() + TIMEOUT
        while self.count < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.count} of {count} tasks had run after {TIMEOUT:g} s")
            time.sleep(POLL)


def submitting(submit: Callable[[int], object], tally: Tally | None = None) -> Action:
    """Return an action that runs a blocking function, then waits until all tasks have run."""

    def run(count: int) -> float:
        before = tally.count if tally else 0
        started = time.perf_counter()
        submit(count)
        if tally:
            tally.wait(before + count)
        return time.perf_counter() - started

    async def action(command: Mapping[str, Any]) -> dict[str, Any]:
        return {"seconds": await asyncio.to_thread(run, command["count"])}

    return action
