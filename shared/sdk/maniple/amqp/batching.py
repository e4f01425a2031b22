"""Bundles: what is ready is sent together.

A publish costs the same whatever it carries, so a sender collects items and sends them at
`max_items`, `max_bytes`, or when nothing is in flight: at low load a bundle is one item and nothing
waits. The more sends are in flight, the longer the next one waits for company (decision 0009).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_ITEMS = 128
MAX_BYTES = 256 * 1024
LINGER = 0.001  # seconds, for each send that is in flight


class Bundler(Generic[T]):
    """Collect items and hand them in lists to `send`, at most `window` sends at a time.

    `send` owns what happens to its items, failures included: it must not raise, and returns a
    future, or task, of its end. `max_items` may be changed at any time. Belongs to one event loop;
    `add` never blocks, so whoever calls it bounds what it adds (by a prefetch or a semaphore).
    """

    def __init__(
        self,
        send: Callable[[list[T]], asyncio.Future[None]],
        *,
        max_items: int = MAX_ITEMS,
        max_bytes: int = MAX_BYTES,
        window: int = 8,
        patience: float = 0.0,
    ) -> None:
        """Send through `send`; see the class for the limits.

        With `patience` (seconds), even an idle bundler waits so long for company: for what nobody
        waits for.
        """
        self._patience = patience
        self._send = send
        self.max_items = max_items
        self._max_bytes = max_bytes
        self._window = window
        self._items: deque[tuple[T, int, int]] = deque()
        self._waiting = 0
        """What they count as, together."""
        self._sends: dict[asyncio.Future[None], list[T]] = {}
        self._timer: asyncio.Handle | None = None
        self._is_full = False
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
        if self._waiting < self.max_items:
            if self._timer is None:
                self._schedule()
        elif not self._is_full:
            self._is_full = True
            asyncio.get_running_loop().call_soon(self._send_full)

    def withdraw(self) -> list[T]:
        """Take back what waits for a send."""
        items = [item for item, _, _ in self._items]
        self._items.clear()
        self._waiting = 0
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
        loop = asyncio.get_running_loop()
        if len(self._sends) >= self._window:
            return  # the end of a send flushes
        if self._patience:
            self._timer = loop.call_later(self._patience, self._flush)
        elif self._sends:
            self._timer = loop.call_later(LINGER * len(self._sends), self._flush)
        else:
            # The next turn of the loop: what this turn delivers travels together.
            self._timer = loop.call_soon(self._flush)

    def _send_full(self) -> None:
        """Send what is full; the rest waits for company."""
        self._is_full = False
        while self._waiting >= self.max_items and len(self._sends) < self._window:
            self._start()
        if self._items and self._timer is None:
            self._schedule()

    def _flush(self) -> None:
        self._timer = None
        while self._items and len(self._sends) < self._window:
            self._start()

    def _start(self) -> None:
        bundle: list[T] = []
        size = count = 0
        while self._items and count < self.max_items:
            item, item_size, counted = self._items[0]
            if bundle and size + item_size > self._max_bytes:
                break
            self._items.popleft()
            bundle.append(item)
            size += item_size
            count += counted
        self._waiting -= count
        sending = self._send(bundle)
        self._sends[sending] = bundle
        sending.add_done_callback(self._ended)

    def _ended(self, sending: asyncio.Future[None]) -> None:
        del self._sends[sending]
        if self._timer is not None and not self._sends and not self._patience:
            self._timer.cancel()
            self._timer = None
        if self._items and self._timer is None:
            if self._patience:
                self._schedule()
            else:
                self._flush()
