"""Reading the records of a cluster while it runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from maniple.amqp import AmqpConnection
from maniple.identifiers import new_id
from maniple.messages import Result, TaskAccepted, TaskAdmitted, TaskRunning
from maniple_runtime.events import Event
from maniple_runtime.records import Batch, RecordReader

TaskRecord = TaskAdmitted | TaskAccepted | TaskRunning | Result


class Recording:
    """All records so far: those of tasks, by task, and the events."""

    def __init__(self) -> None:
        self._of: dict[str, list[TaskRecord]] = {}
        self.events: list[Event] = []

    async def take(self, batch: Batch) -> None:
        for entry in batch.entries:
            if isinstance(entry.record, TaskRecord):
                self._of.setdefault(entry.record.id, []).append(entry.record)
            else:
                self.events.append(entry.record)

    def accepted(self, task: str) -> list[TaskAccepted]:
        return [record for record in self._of.get(task, ()) if isinstance(record, TaskAccepted)]

    def results(self, task: str) -> list[Result]:
        return [record for record in self._of.get(task, ()) if isinstance(record, Result)]

    def whole(self, task: str) -> bool:
        """Whether both records that a task leaves are there."""
        return bool(self.accepted(task) and self.results(task))


@asynccontextmanager
async def recording(url: str) -> AsyncIterator[Recording]:
    """Read the records from the first on, for the time of the block."""
    link, found = AmqpConnection(url, name=f"reader-{new_id()}"), Recording()
    reader = RecordReader(link, found.take)
    await link.start(10)
    reading = asyncio.create_task(reader.read_records())
    try:
        yield found
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await link.close()
