"""Sending tasks whose agent was lost on their way again, each alone."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from maniple.attempts import Ran
from maniple.errors import ManipleError
from maniple.messages import Envelope, Result
from maniple.task_registry import TaskRegistry
from maniple_agent.domain.redelivery import after_loss, may_copy
from maniple_agent.publisher import AgentPublisher
from maniple_runtime.publish.confirm import ConfirmCallback

_log = logging.getLogger(__name__)

Identity = tuple[str, str]
"""Tenant and id of a task."""

ACK_SECONDS = 1.0  # at most, for an acknowledgement to be written


class Source(Protocol):
    """What a task came with: settled part by part, its acknowledgement written by `flushed`."""

    def settle(self, error: ManipleError | None = None) -> None:
        """Record the end of one part."""

    def keeps_room(self, bulkhead: str | None) -> None:
        """Record that one of its tasks keeps its room elsewhere."""

    async def flushed(self) -> None:
        """Return once the acknowledgement, if all parts have ended, is on its way."""


@dataclass(eq=False)
class _Split:
    """What of one source is under way: whose moves, and how many are not confirmed."""

    tasks: list[Identity] = field(default_factory=list)
    unconfirmed: int = 0


class SuspectRedelivery:
    """What becomes of tasks that were lost.

    A copy of a task whose move is under way `holds`: it may be what kills us, and then its bundle
    would come again with as many losses as before. So do the others that came in the same bundle,
    until that is acknowledged; nothing else waits for them, least of all for a queue that does not
    confirm.

    Known weakness: an acknowledgement that is written may still wait in the broker's channel, which
    hands a quorum queue 32 at a time, and is forgotten there when we die. The copy that this leaves
    ends by itself.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        agent_publisher: AgentPublisher,
        publish_result: Callable[[Result, Envelope, ConfirmCallback], None],
        ended: Callable[[], None],
    ) -> None:
        """Publish through these; `ended` is called when some are no longer under way."""
        self._finishing: set[asyncio.Future[None]] = set()
        self._registry = registry
        self._agent_publisher = agent_publisher
        self._publish_result = publish_result
        self._ended = ended
        self._splits: dict[Source, _Split] = {}
        self._held: Counter[Identity] = Counter()

    @property
    def in_flight(self) -> bool:
        """Whether some are not confirmed yet, or their bundles not acknowledged."""
        return bool(self._held)

    def holds_back(self, envelope: Envelope) -> bool:
        """Whether a task must not start, because it may be a copy of one that is under way."""
        return (envelope.tenant, envelope.id) in self._held

    def move(
        self, envelope: Envelope, ran: Ran, reason: str, source: Source, *, suspect: bool
    ) -> None:
        """Send one task of `source` to where it may run again, or end it."""
        definition = self._registry.get(envelope.capability)
        fate = after_loss(envelope, definition, ran, suspect=suspect)

        task = (envelope.tenant, envelope.id)
        split = self._splits.setdefault(source, _Split())

        def moved(error: ManipleError | None = None) -> None:
            try:
                source.settle(error)
            finally:
                self._moved(split, source)

        split.tasks.append(task)
        split.unconfirmed += 1
        self._held[task] += 1
        try:
            if isinstance(fate, Result):
                self._publish_result(fate, envelope, moved)
            else:
                copies, keep = may_copy(definition), source.keeps_room
                self._agent_publisher.alone(
                    fate.key, fate.envelope, reason, moved, may_copy=copies, keep=keep
                )
        except BaseException:
            self._moved(split, source)
            raise

    def _moved(self, split: _Split, source: Source) -> None:
        split.unconfirmed -= 1
        if split.unconfirmed:
            return
        if self._splits.get(source) is split:
            del self._splits[source]
        finishing = asyncio.get_running_loop().create_task(self._finish(split, source))
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)

    async def _finish(self, split: _Split, source: Source) -> None:
        # Never cancelled, which would lose what it has still to write. A broker that takes nothing
        # for so long gets no killer either.
        writing = asyncio.ensure_future(source.flushed())
        self._finishing.add(writing)
        writing.add_done_callback(self._written)
        try:
            await asyncio.wait([writing], timeout=ACK_SECONDS)
        finally:
            self._held -= Counter(split.tasks)
            self._ended()

    def _written(self, writing: asyncio.Future[None]) -> None:
        self._finishing.discard(writing)
        if not writing.cancelled() and (error := writing.exception()) is not None:
            _log.error("an acknowledgement of a lost task could not be written", exc_info=error)
