"""Long messages are worked through in slices, between which short ones take their turns.

An array has up to 1,000 tasks, each of which takes as much work as one that comes alone. In one go
that would hold up the loop, and with it everybody else's tasks, for a tenth of a second or more.
Nor is more of them given to the broker, while shorter ones come, than it confirms soon: what is
published later waits there behind it. How many are begun at a time, `maniple.amqp.byte_budget`
bounds; they take turns, so that none waits for the end of a longer one.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator

from maniple.amqp import Delivery, Length, length_of
from maniple_runtime.publish.confirm import Settlement

SLICE = 0.001  # seconds of the loop that are taken at a time
MOST_UNSETTLED = 256  # parts of long messages, beyond which they rest
REST = 0.002  # seconds
LONGEST_REST = 0.05  # between slices: what is not confirmed may be one queue's fault
LATELY = 1.0  # seconds for which what was shorter has the way kept clear

Steps = Iterator[None]
"""The work on a message, that may rest after each step: a task takes less than a slice."""

_DONE = object()
_log = logging.getLogger(__name__)


class LongMessages:
    """Does what is to be done with a message: of a short one at once, of a long one in slices."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Begin with none; long ones are worked through in `work_in_slices`."""
        self._monotonic = monotonic
        self._begun: deque[tuple[Length, Delivery, Steps]] = deque()
        self._sources: list[Settlement] = []
        self._last_short = -math.inf  # when the last short one came (monotonic)
        self._last_long = -math.inf  # when the last `Length.LONG` came
        self._any = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def work_through(self, delivery: Delivery, steps: Steps) -> None:
        """Go through `steps`: now, or in turns with other long ones."""
        length = length_of(delivery.weight)
        if length is Length.SHORT:
            self._last_short = self._monotonic()
            for _ in steps:
                pass
            return
        if length is Length.LONG:
            self._last_long = self._monotonic()
        self._begun.append((length, delivery, steps))
        self._none.clear()
        self._any.set()

    def watch_source(self, source: Settlement) -> None:
        """Count the parts of a long one among what the broker has been given."""
        self._sources = [one for one in self._sources if one.alive and one.remaining]
        self._sources.append(source)

    async def work_in_slices(self) -> None:
        """Work until cancelled."""
        while True:
            await self._any.wait()
            while self._begun:
                length, delivery, steps = self._begun.popleft()
                if not self._is_over(delivery, steps):
                    self._begun.append((length, delivery, steps))
                del delivery, steps  # of what is over nothing is kept meanwhile
                await self._rest(length)
            self._any.clear()
            self._none.set()

    async def drain_messages(self) -> None:
        """Return when all that was taken has been gone through."""
        await self._none.wait()

    def _is_over(self, delivery: Delivery, steps: Steps) -> bool:
        """Work on one for a slice; what is delivered again is left to whoever has it then."""
        until = self._monotonic() + SLICE
        try:
            while delivery.alive and next(steps, _DONE) is not _DONE:
                if self._monotonic() >= until:
                    return False
        except Exception:  # noqa: BLE001 - a message must not be held for ever, whatever is wrong
            _log.exception("a long message cannot be handled")
            delivery.reject()
        return True

    async def _rest(self, length: Length) -> None:
        """Give others their turn, until the broker has confirmed most of what it was given."""
        await asyncio.sleep(0)
        until = self._monotonic() + LONGEST_REST
        while self._monotonic() < until and self._is_in_the_way(length):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(REST)

    def _is_in_the_way(self, length: Length) -> bool:
        """Tell whether much is not confirmed that shorter ones which have come lately wait for."""
        shorter = self._last_short
        if length is Length.LONGEST:
            shorter = max(shorter, self._last_long)
        if shorter < self._monotonic() - LATELY:
            return False
        return sum(one.remaining for one in self._sources if one.alive) > MOST_UNSETTLED
