"""A submitter in a process of its own, so that the SDK's memory can be told from the tests'.

    python -m system.soak.client_program RATE SECONDS

It submits at a fixed rate whatever becomes of the tasks, and writes twice a second, a JSON object a
line, how many it has submitted in how many seconds, and which results it got since. It keeps
nothing of a task itself.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from bench.arrivals import Arrivals
from msgspec import Raw

from maniple import connect
from maniple.codec import decode_value
from maniple.messages import Result, Status, Task
from system.soak.accounts import PREFIX, task_id

WINDOW_SECONDS = 30.0  # of tasks that may be under way: more than an agent's death holds up
PERIOD = 0.5
THREADED = 10  # one in so many runs in a thread


@dataclass
class Report:
    """What is written next."""

    submitted: int = 0
    took: float = 0.0
    told: list[int] = field(default_factory=list)
    odd: list[tuple[int, str, Any]] = field(default_factory=list)

    def take(self, result: Result) -> None:
        """Take note of a result."""
        number, output = int(result.id.removeprefix(PREFIX)), decode_value(result.output)
        if result.status is Status.SUCCEEDED and output == number:
            self.told.append(number)
        else:
            self.odd.append((number, str(result.status), output))

    def write(self) -> None:
        """Write what came since the last time."""
        said = {
            "submitted": self.submitted,
            "took": self.took,
            "told": self.told,
            "odd": self.odd,
        }
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        self.told, self.odd = [], []


async def tasks(arrivals: Arrivals, report: Report) -> AsyncIterator[Task]:
    """Make each task when it is due."""
    begun = time.monotonic()
    async for number in arrivals:
        capability = "flood.quick" if number % THREADED else "flood.plain"
        yield Task(capability=capability, id=task_id(number), payload=Raw(b"%d" % number))
        report.submitted, report.took = number + 1, time.monotonic() - begun


async def _write_now_and_then(report: Report) -> None:
    while True:
        await asyncio.sleep(PERIOD)
        report.write()


async def main(rate: float, seconds: float) -> None:
    """Submit, and take all results."""
    report = Report()
    async with connect() as client:
        writing = asyncio.create_task(_write_now_and_then(report))
        due = tasks(Arrivals(rate, seconds), report)
        window = round(WINDOW_SECONDS * rate)
        async for result in client.outcomes(due, window=window, ordered=False):
            report.take(result)
        writing.cancel()
    report.write()


if __name__ == "__main__":
    asyncio.run(main(*map(float, sys.argv[1:])))
