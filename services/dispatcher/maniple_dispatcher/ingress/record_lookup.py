"""Looking up in the records what became of tasks that come again.

What a dispatcher had when it died, or lost its connection, is delivered again, also if it had told
of its end and only the acknowledgement was missing. The records have each end before anybody is
told of it (`RecordFirst.conclude`), and that a task is in its lane right after it is.
"""

import asyncio
import logging
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from maniple.amqp import Outgoing, Publisher
from maniple.codec import encode
from maniple.errors import BAD_INPUT, BrokerUnavailable, InvalidMessage, ManipleError
from maniple.identifiers import new_id
from maniple.messages import (
    ACCEPTED_TYPE,
    ADMITTED_TYPE,
    GROUPS_TYPE,
    MARK_TYPE,
    RESULTS_TYPE,
    RUNNING_TYPE,
    Result,
    is_result_of,
)
from maniple.topology import MARK_KEY, RESULTS
from maniple_dispatcher.record_stream import reading
from maniple_runtime.events import Event
from maniple_runtime.records import Batch, Entry, Record, TaskKey, decode_records
from maniple_runtime.runtime import Runtime

BACK = 60.0  # seconds; longer than the broker waits for a connection that is silent
MOST_BACK = 300.0
LIMIT = 20.0  # seconds for which nothing comes until a look is begun again
RESTS = 2  # times as long as a look took, until the next: the loop is the tasks'
LONGEST_REST = 5.0
AGAIN = 1.0
MOST_ENDS = 16  # of one id that are told from each other
_TYPES = (ADMITTED_TYPE, ACCEPTED_TYPE, GROUPS_TYPE, RUNNING_TYPE, RESULTS_TYPE)
# An id has 128 characters at most; what is longer is somebody's payload.
_IDS = re.compile(rb'"id":"((?:[^"\\]|\\.){1,768})"')
_STRINGS = re.compile(rb'"((?:[^"\\]|\\.){1,768})"')


Then = Callable[[Record | None], None]
"""Told what the records have of a task: its end if there is one, else the last; None if nothing."""

_log = logging.getLogger(__name__)


class RecordLookup:
    """Answers, for all that ask meanwhile, by one reading of the records of the last minute or so.

    That there are no more is known by a mark that is published first, and that readers pass over.
    """

    def __init__(self, runtime: Runtime, publisher: Publisher, outage: Callable[[], float]) -> None:
        """Read through a connection of its own; further back by the last `outage()`, in seconds."""
        self._runtime = runtime
        self._monotonic = runtime.clock.monotonic
        self._publisher = publisher
        self._outage = outage
        self._asked: dict[TaskKey, list[tuple[Then, str | None]]] = {}
        self._from = math.inf  # for what is asked; monotonic
        self._any = asyncio.Event()

    def ask(
        self, key: TaskKey, then: Then, since: float = 0.0, *, capability: str | None = None
    ) -> None:
        """Have `then` told soon what became of a task, also if that was `since` seconds ago.

        With a `capability`, that is its end in place of another task's under the same id.
        """
        back = max(BACK + self._outage(), min(since, MOST_BACK))
        self._from = min(self._from, self._monotonic() - back)
        self._asked.setdefault(key, []).append((then, capability))
        self._any.set()

    async def answer_lookups(self) -> None:
        """Answer until cancelled."""
        while True:
            await self._any.wait()
            self._any.clear()
            asked, self._asked = self._asked, {}
            begun = self._monotonic()
            found = await self._look(asked)
            for key, all_of_it in asked.items():
                of_key = found.get(key)
                for then, capability in all_of_it:
                    try:
                        then(None if of_key is None else of_key.choose_record(capability))
                    except Exception:  # noqa: BLE001 - one of them must not cost the others
                        _log.exception("a redelivered task cannot be dispatched")
                await asyncio.sleep(0)
            await asyncio.sleep(min(RESTS * (self._monotonic() - begun), LONGEST_REST))

    async def _look(self, wanted: Collection[TaskKey]) -> "Mapping[TaskKey, Found]":
        """Read until there is no more: what nobody knows of a task is no reason to end it."""
        begun, start = self._monotonic(), self._from
        self._from = math.inf
        while True:
            search = RecordSearch(wanted)
            try:
                await self._read(search, self._monotonic() - start)
            except (ManipleError, TimeoutError) as error:
                self._runtime.log.warning(
                    "the records of tasks that come again cannot be read",
                    tasks=len(wanted),
                    reason=repr(error),
                )
                await asyncio.sleep(AGAIN)
            else:
                break
        self._runtime.log.info(
            "tasks are redelivered",
            tasks=len(wanted),
            ended=sum(bool(one.ends) for one in search.found.values()),
            known=len(search.found),
            seconds=round(self._monotonic() - begun, 3),
        )
        return search.found

    async def _read(self, search: "RecordSearch", back: float) -> None:
        """Read for as long as something comes, however long that is."""
        async with asyncio.timeout(LIMIT) as silence:

            async def take(batch: Batch) -> None:
                if not silence.expired():
                    silence.reschedule(asyncio.get_running_loop().time() + LIMIT)
                await search.add_batch(batch)

            async with reading(
                self._runtime, "lookups", take, start=f"{round(back)}s", decode=search.decode
            ) as one:
                await self._reach_mark(search, one.work)

    async def _reach_mark(self, search: "RecordSearch", work: asyncio.Task[None]) -> None:
        """Wait for the mark; it is set again now and then, as retention may have removed it."""
        ended = asyncio.create_task(search.ended.wait())
        try:
            while not (ended.done() or work.done()):
                await self._publisher.publish(search.mark)
                await asyncio.wait(
                    (ended, work), timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            ended.cancel()
        if not search.ended.is_set():
            raise BrokerUnavailable("the reader has ended")


def is_end_of(result: Result, capability: str | None) -> bool:
    """Tell whether an end is of what was asked for, or of a fallback for it; None is anything."""
    return (
        capability is None
        or is_result_of(result, capability)
        or (result.error is not None and result.error.code in BAD_INPUT)
    )


@dataclass(slots=True)
class Found:
    """What the records have under one id; the first end of a task is its end."""

    last: Record | None = None
    """Of what is no end."""
    ends: list[Result] = field(default_factory=list)
    """The first of each capability."""

    def add_record(self, record: Record) -> None:
        """Keep a record that was found."""
        if not isinstance(record, Result):
            self.last = record
        elif len(self.ends) < MOST_ENDS and all(
            record.capability != one.capability for one in self.ends
        ):
            self.ends.append(record)

    def choose_record(self, capability: str | None) -> Record | None:
        """Return the end of what was asked for, or another end, or else the last."""
        ours = (one for one in self.ends if is_end_of(one, capability))
        return next(ours, None) or next(iter(self.ends), None) or self.last


class RecordSearch:
    """What is looked for in one reading, and found."""

    def __init__(self, wanted: Collection[TaskKey]) -> None:
        """Search for what is `wanted`, until the mark."""
        self._wanted = frozenset(wanted)
        self._ids = frozenset(encode(key.id)[1:-1] for key in wanted)
        body = encode({"mark": new_id()})
        self.mark = Outgoing(RESULTS.name, MARK_KEY, body, message_id=new_id(), type=MARK_TYPE)
        self._passed = False
        self.found: dict[TaskKey, Found] = {}
        self.ended = asyncio.Event()

    def decode(
        self, kind: str | None, body: bytes, offset: int
    ) -> Sequence[Entry | InvalidMessage]:
        """Return the records in a message that are looked for; the others are not decoded."""
        if kind == MARK_TYPE:
            self._passed = self._passed or body == self.mark.body
        ids = _STRINGS if kind == GROUPS_TYPE else _IDS
        if kind not in _TYPES or self._ids.isdisjoint(ids.findall(body)):
            return ()
        entries = decode_records(kind, body, offset)
        return [one for one in entries if isinstance(one, Entry) and _key(one) in self._wanted]

    async def add_batch(self, batch: Batch) -> None:
        """Record what was found, and whether that was all."""
        for entry in batch.entries:
            key = _key(entry)
            if key is not None and not isinstance(entry.record, Event):
                self.found.setdefault(key, Found()).add_record(entry.record)
        if self._passed:
            self.ended.set()
        await asyncio.sleep(0)


def _key(entry: Entry) -> TaskKey | None:
    record = entry.record
    return None if isinstance(record, Event) else TaskKey(record.tenant, record.id)
