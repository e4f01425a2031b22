"""Accounts of millions of tasks: the campaign's, block by block, each closed when it is complete.

What the campaign's checker keeps of a task takes a kilobyte. A block of tasks is kept for as long
as something about it may still come, then judged by that checker, and forgotten but for its sums.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from maniple_runtime.records import Batch, Entry
from system.campaign import checks
from system.campaign.client_history import ClientHistory, Told
from system.campaign.history import History
from system.campaign.journal import Journal
from system.campaign.measure import Evidence

BLOCK = 20_000
KEPT = 3  # complete blocks that are kept, as late results come yet
PREFIX = "soak-"
SHOWN = 3
SUCCEEDED = "succeeded"

Odd = Sequence[Any]
"""Number, status and output of a task that did not return its payload."""


def task_id(number: int) -> str:
    """Return the id of the task with that number, which is its payload, too."""
    return f"{PREFIX}{number}"


class Block:
    """What the submitter and the stream say of some tasks."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.submitted = 0
        self.client_history = ClientHistory()
        self.history = History()
        self.evidence = Evidence(self.client_history, self.history, Journal(Path("nowhere")))

    @property
    def complete(self) -> bool:
        """Whether all its tasks have been told of and have ended."""
        told = len(self.client_history.told)
        return self.submitted == self._size == told == self.history.ledger.terminal

    def complaints(self) -> Iterator[str]:
        """Compare it as the campaign does, and tell which tasks are lost or failed."""
        yield from checks.accounts(self.evidence, self.submitted)
        told, ledger = self.client_history.told, self.history.ledger
        ended = {key.id for key, fate in ledger if fate.over}
        yield from _some(
            "were never told to their submitter", self.client_history.confirmed - {*told}
        )
        yield from _some("have no result in the stream", self.client_history.confirmed - ended)
        yield from _some(
            "are in the stream and were never submitted", ended - {*self.client_history.confirmed}
        )
        yield from _some("did not return their payload", self._wrong())

    def _wrong(self) -> set[str]:
        wrong = set(_failed(self.client_history.told))
        for key, output in self.history.outputs.items():
            if output != int(key.id.removeprefix(PREFIX)):
                wrong.add(key.id)
        return wrong


class Accounts:
    """Accounts of all tasks: what was submitted, what was told, what the stream says."""

    def __init__(self, block: int = BLOCK) -> None:
        self._size = block
        self.submitted = self.told = 0
        self.sums: Counter[str] = Counter()
        self.problems: list[str] = []
        self._blocks: dict[int, Block] = {}
        self._closed: set[int] = set()

    def submit(self, count: int) -> None:
        """Take note that the first `count` tasks have been submitted."""
        for number in range(self.submitted, count):
            block = self._block(number)
            block.submitted += 1
            block.client_history.confirm(task_id(number))
        self.submitted = max(self.submitted, count)

    def tell(self, good: Iterable[int], odd: Iterable[Odd] = ()) -> None:
        """Take note of results that the submitter got: `good` ones returned their payload."""
        for number in good:
            self._tell(number, Told(SUCCEEDED, number))
        for number, status, output in odd:
            self._tell(number, Told(status, output))

    async def hear(self, batch: Batch) -> None:
        """Take records."""
        self.sums["records that cannot be read"] += batch.unreadable
        for entry in batch.entries:
            self.take(entry)

    def take(self, entry: Entry) -> None:
        """Take one record; those of no task of ours say nothing here."""
        name = getattr(entry.record, "id", "")
        if not name.startswith(PREFIX):
            return
        number = int(name.removeprefix(PREFIX))
        if number // self._size in self._closed:
            self.sums["records after their block was closed"] += 1
        else:
            self._block(number).history.take(entry)

    def close(self) -> None:
        """Judge and forget the oldest complete blocks."""
        complete = [number for number, block in self._blocks.items() if block.complete]
        for number in sorted(complete)[:-KEPT]:
            self._judge(number)

    @property
    def open(self) -> int:
        """Tasks that nobody was told the end of."""
        return self.submitted - self.told

    @property
    def complete(self) -> bool:
        """Whether every task that was submitted has ended, by both accounts."""
        ended = sum(block.history.ledger.terminal for block in self._blocks.values())
        return not self.open and ended + self._size * len(self._closed) == self.submitted

    def end(self) -> list[str]:
        """Judge all blocks that are left; return all complaints."""
        for number in sorted(self._blocks):
            self._judge(number)
        unreadable = self.sums["records that cannot be read"]
        return self.problems + ([f"{unreadable} records cannot be read"] if unreadable else [])

    def _judge(self, number: int) -> None:
        block = self._blocks.pop(number)
        self._closed.add(number)
        first = number * self._size
        self.problems += [
            f"of tasks {first} to {first + block.submitted - 1}: {said}"
            for said in block.complaints()
        ]
        self.sums["late results refused"] += block.history.ledger.refused
        self.sums["results published again"] += block.history.ledger.repeated

    def _tell(self, number: int, told: Told) -> None:
        if number // self._size in self._closed:
            self.problems.append(f"task {number} was told of twice")
            return
        history = self._block(number).client_history
        again = history.again
        history.tell(task_id(number), told)
        if history.again > again:
            self.problems.append(f"task {number} was told of twice")
        else:
            self.told += 1

    def _block(self, number: int) -> Block:
        return self._blocks.setdefault(number // self._size, Block(self._size))


def _failed(told: dict[str, Told]) -> Iterator[str]:
    for task, one in told.items():
        if one != Told(SUCCEEDED, int(task.removeprefix(PREFIX))):
            yield task


def _some(what: str, tasks: set[str]) -> Iterator[str]:
    if tasks:
        shown = ", ".join(sorted(tasks)[:SHOWN])
        yield f"{len(tasks)} tasks {what}: {shown}"
