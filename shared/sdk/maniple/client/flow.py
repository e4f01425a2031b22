"""Many tasks at once, never more than a window of them: what `Client.map` is built on."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Generic, Protocol, TypeVar

from maniple.client.handle import OutstandingHandles, Ticket
from maniple.errors import ManipleError
from maniple.messages import Result

T = TypeVar("T")

# A plain iterable is read without a pause; the loop gets a turn after so many items.
TURN = 256
MOST_BYTES = 64 * 1024**2  # of tasks that the broker has not confirmed and outputs not read, about


class Carrier(Protocol):
    """Sends tickets to the cluster and tells an `OutstandingHandles` how they ended."""

    def send(self, ticket: Ticket) -> None:
        """Queue a ticket to be sent; calls `ticket.confirmed` later. Never blocks."""
        ...

    async def close(self) -> None:
        """Send what is queued, then stop receiving."""
        ...


class Slot(Ticket):
    """A task of a flow. `outcome` is its result, or the error in place of one."""

    __slots__ = ("flow", "outcome")

    def __init__(
        self,
        task_id: str,
        tenant: str,
        capability: str,
        body: bytes,
        outcome: ManipleError | None = None,
    ) -> None:
        """Describe a task; one that cannot be sent starts with its outcome."""
        super().__init__(task_id, tenant, capability, body)
        self.flow: Flow | None = None
        self.outcome: Result | ManipleError | None = outcome

    def confirmed(self, error: ManipleError | None) -> None:
        """See `Ticket`."""
        body, self.body = self.body, b""
        if self.flow is not None:
            self.flow.release(len(body))
        if error is not None and self.flow is not None:
            self.flow.finish(self, error)

    def settle_with(self, result: Result) -> None:
        """See `Ticket`."""
        if self.flow is not None:
            self.flow.finish(self, result)

    def abandon(self, error: ManipleError) -> None:
        """See `Ticket`."""
        if self.flow is not None:
            self.flow.finish(self, error)


class Flow:
    """Sends tasks as they are asked for and yields the outcome of each once.

    A task counts against `window` from when it is made until its outcome is taken. It counts with
    its own bytes until the broker has confirmed it, then with the size of the largest recent
    output, and then with its own output's size until that is taken. So memory is bounded whatever
    the length of the input, the size of tasks, and the slowness of broker and reader. Known
    weakness: the size of outputs is learned from the first ones, and by then a whole window of them
    may be on its way.
    """

    def __init__(
        self, carrier: Carrier, outstanding: OutstandingHandles, *, window: int, ordered: bool
    ) -> None:
        """Send through `carrier`; with `ordered`, outcomes come in the order of the input."""
        self._carrier = carrier
        self._outstanding = outstanding
        self._window = window
        self._ordered = ordered
        self._ready: deque[Slot] = deque()
        self._in_play = 0
        self._bytes = 0
        self._running = 0
        self._output = 0
        self._room: asyncio.Future[None] | None = None
        self._news: asyncio.Future[None] | None = None

    async def iterate_slots(
        self, items: Iterable[T] | AsyncIterable[T], make: Callable[[T], Slot]
    ) -> AsyncGenerator[Slot, None]:
        """Make a task of each item and yield the slots as they are done.

        An error that `items` raises is raised after the outcomes of the items before it.
        """
        feeder = asyncio.create_task(self._feed(items, make), name="maniple map")
        feeder.add_done_callback(lambda _: self._wake())
        try:
            while True:
                while (slot := self._next()) is not None:
                    yield slot
                    self._in_play -= 1
                    self.release(_size(slot.outcome))
                if feeder.done() and not self._in_play:
                    break
                self._news = asyncio.get_running_loop().create_future()
                await self._news
            feeder.result()
        finally:
            feeder.cancel()
            await asyncio.wait({feeder})
            if self._in_play:
                self._outstanding.discard_where(lambda t: isinstance(t, Slot) and t.flow is self)

    def finish(self, slot: Slot, outcome: Result | ManipleError) -> None:
        """Record a task's outcome; only the first counts."""
        if slot.outcome is not None:
            return
        slot.outcome = outcome
        size = _size(outcome)
        self._bytes += size
        self._running -= 1
        self._output = max(size, self._output - self._output // 8)
        if isinstance(outcome, ManipleError):
            self._outstanding.discard(slot)
        if not self._ordered:
            self._ready.append(slot)
        self._wake()

    async def _feed(self, items: Iterable[T] | AsyncIterable[T], make: Callable[[T], Slot]) -> None:
        async for item in _Paced(items):
            while self._is_full:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
            slot = make(item)  # what it raises leaves nothing in play
            self._in_play += 1
            self._start(slot)

    @property
    def _is_full(self) -> bool:
        if self._in_play >= self._window:
            return True
        return self._in_play > 0 and self._bytes + self._running * self._output >= MOST_BYTES

    def release(self, size: int) -> None:
        """Subtract bytes that are not held any more."""
        self._bytes -= size
        if not self._is_full:
            self._make_room()

    def _start(self, slot: Slot) -> None:
        slot.flow = self
        self._running += 1
        if self._ordered:
            self._ready.append(slot)
        refusal, slot.outcome = slot.outcome, None
        if refusal is not None:
            self.finish(slot, refusal)
            return
        self._bytes += len(slot.body)
        try:
            self._outstanding.add_ticket(slot)
            self._carrier.send(slot)
        except ManipleError as error:
            slot.sent(error)

    def _next(self) -> Slot | None:
        if self._ready and self._ready[0].outcome is not None:
            return self._ready.popleft()
        return None

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


def _size(outcome: Result | ManipleError | None) -> int:
    return len(outcome.output) if isinstance(outcome, Result) else 0


class _Paced(Generic[T]):
    """Iterates over a plain or asynchronous iterable, and yields to the event loop now and then."""

    def __init__(self, items: Iterable[T] | AsyncIterable[T]) -> None:
        self._items = items

    async def __aiter__(self) -> AsyncIterator[T]:
        if isinstance(self._items, AsyncIterable):
            async for item in self._items:
                yield item
            return
        for count, item in enumerate(self._items, 1):
            yield item
            if count % TURN == 0:
                await asyncio.sleep(0)
