"""Bundles: what is ready is sent together.

A publish costs the same whatever it carries, at each hop behind it too. So what is full is sent at
once, and what is not only while hardly anything is in flight: the slower the broker answers, the
larger bundles get. Who begins a chain of hops besides leaves some time between its bundles, and the
others forward what they get. At low load a bundle is one item and nothing waits (decision 0009).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_ITEMS = 128
MAX_BYTES = 256 * 1024
PARTIAL = 2
"""How many sends may be in flight when one goes out that is not full."""
SPACING = 0.002  # seconds after a bundle, for each of its items but the first


class Bundler(Generic[T]):
    """Collect items and hand them in lists to `send`, at most `window` sends at a time.

    `send` owns what happens to its items, failures included: it must not raise, and returns a
    future, or task, of its end. `max_items` may be changed at any time. Belongs to one event loop;
    `add` never blocks, so whoever calls it bounds what it adds (by a prefetch or a semaphore).
    """

    def __init__(  # noqa: PLR0913 - its limits, each of which is optional
        self,
        send: Callable[[list[T]], asyncio.Future[None]],
        *,
        max_items: int = MAX_ITEMS,
        max_bytes: int = MAX_BYTES,
        window: int = 8,
        patience: float = 0.0,
        spacing: float = 0.0,
    ) -> None:
        """Send through `send`; see the class for the limits.

        With `patience` (seconds), even an idle bundler waits so long for company: for what nobody
        waits for. With `spacing` (seconds), what is not full waits until a bundle of several has
        been gone for `SPACING` for each further one of them, and no longer than that.
        """
        self._patience = patience
        self._spacing = spacing
        self._send = send
        self.max_items = max_items
        self._max_bytes = max_bytes
        self._window = window
        self._items: deque[tuple[T, int, int]] = deque()
        self._waiting = self._size = 0
        """What they count as, and their bytes, together."""
        self._sends: dict[asyncio.Future[None], list[T]] = {}
        self._timer: asyncio.Handle | None = None
        self._space: asyncio.TimerHandle | None = None
        """The end of the time that is left after a bundle, until that is over."""
        self._sends_full = False
        """Whether full bundles are sent in the next turn of the loop."""

    def __len__(self) -> int:
        """Items that wait for a send."""
        return len(self._items)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being sent."""
        return not self._items and not self._sends

    def add(self, item: T, size: int, count: int = 1) -> None:
        """Send one item of `size` bytes soon; it counts as so many, and is not divided."""
        self._items.append((item, size, count))
        self._waiting += count
        self._size += size
        if not self._is_full:
            if self._timer is None:
                self._schedule()
        elif not self._sends_full:
            self._sends_full = True
            asyncio.get_running_loop().call_soon(self._send_full)

    def withdraw(self) -> list[T]:
        """Take back what waits for a send."""
        items = [item for item, _, _ in self._items]
        self._items.clear()
        self._waiting = self._size = 0
        return items

    def cancel(self, given_up: Callable[[T], bool]) -> None:
        """Cancel the sends all of whose items are given up."""
        for sending, bundle in self._sends.items():
            if all(given_up(item) for item in bundle):
                sending.cancel()

    async def drain(self) -> None:
        """Send what waits and return when every send has ended."""
        while self._items or self._sends:
            self._flush()
            if self._sends:
                await asyncio.wait(self._sends, return_when=asyncio.FIRST_COMPLETED)

    def _schedule(self) -> None:
        if not self._may_send or self._space is not None:
            return  # the end of a send, or of that time, schedules the next one
        loop = asyncio.get_running_loop()
        if self._patience:
            self._timer = loop.call_later(self._patience, self._flush)
        else:
            # The next turn of the loop: what this turn delivers travels together.
            self._timer = loop.call_soon(self._flush)

    @property
    def _is_full(self) -> bool:
        return self._waiting >= self.max_items or self._size >= self._max_bytes

    @property
    def _may_send(self) -> bool:
        return len(self._sends) < (self._window if self._is_full else min(PARTIAL, self._window))

    def _send_full(self) -> None:
        """Send what is full; the rest waits for company."""
        self._sends_full = False
        while self._is_full and self._may_send:
            self._start()
        if self._items and self._timer is None:
            self._schedule()

    def _flush(self) -> None:
        self._timer = None
        while self._items and self._may_send:
            self._start()

    def _start(self) -> None:
        bundle: list[T] = []
        size = count = 0
        while self._items and count < self.max_items:
            item, item_size, counted = self._items[0]
            most_bytes, most = self._max_bytes - size, self.max_items - count
            if bundle and (item_size > most_bytes or counted > most):
                break
            self._items.popleft()
            bundle.append(item)
            size += item_size
            count += counted
        self._waiting -= count
        self._size -= size
        if self._spacing and count > 1:  # who sends one after the other is not held up
            self._leave_space(min(self._spacing, SPACING * (count - 1)))
        sending = self._send(bundle)
        self._sends[sending] = bundle
        sending.add_done_callback(self._ended)

    def _leave_space(self, seconds: float) -> None:
        if self._space is not None:
            self._space.cancel()
        self._space = asyncio.get_running_loop().call_later(seconds, self._end_space)

    def _end_space(self) -> None:
        self._space = None
        if self._timer is None:
            self._flush()

    def _ended(self, sending: asyncio.Future[None]) -> None:
        del self._sends[sending]
        self._send_full()
