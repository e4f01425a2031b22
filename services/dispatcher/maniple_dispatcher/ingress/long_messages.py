"""Long messages are worked through in slices, between which short ones take their turns.

An array has up to 1,000 tasks, each of which takes as much work as one that comes alone. In one go
that would hold up the loop, and with it everybody else's tasks, for a tenth of a second or more.
Nor is more of them given to the broker than it confirms soon: what is published later waits there
behind it. How many are begun at a time, `maniple.amqp.byte_budget` bounds.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Generator
from time import monotonic

from maniple.amqp import Delivery, is_long
from maniple.service.settlement import Settlement

SLICE = 0.001  # seconds of the loop that are taken at a time
MOST_UNSETTLED = 256  # parts of long messages, beyond which they rest
REST = 0.002  # seconds
LONGEST_REST = 0.05  # between slices: what is not confirmed may be one queue's fault

Steps = Generator[None, None, None]
"""The work on a message, that may rest at each `yield`: a task takes less than a slice."""

_DONE = object()
_log = logging.getLogger(__name__)


class LongMessages:
    """Does what is to be done with a message: of a short one at once, of a long one in slices."""

    def __init__(self) -> None:
        """Begin with none; long ones are worked through in `run`."""
        self._begun: deque[tuple[Delivery, Steps]] = deque()
        self._sources: list[Settlement] = []
        self._any = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def take(self, delivery: Delivery, steps: Steps) -> None:
        """Go through `steps`, now or behind the long ones that came before."""
        if not is_long(delivery.weight):
            for _ in steps:
                pass
            return
        self._begun.append((delivery, steps))
        self._none.clear()
        self._any.set()

    def source(
        self, delivery: Delivery, *, patient: bool = False, expires: bool = False
    ) -> Settlement:
        """Return what settles a message; it has one part, which is to be settled after the last."""
        source = Settlement(delivery, 1, patient=patient, expires=expires)
        if is_long(delivery.weight):
            self._sources.append(source)
        return source

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._any.wait()
            while self._begun:
                await self._go_through(*self._begun[0])
                self._begun.popleft()
            self._any.clear()
            self._none.set()

    async def drain(self) -> None:
        """Return when all that was taken has been gone through."""
        await self._none.wait()

    async def _go_through(self, delivery: Delivery, steps: Steps) -> None:
        """Go through one; what is delivered again is left to whoever has it then."""
        try:
            began = monotonic()
            while delivery.alive and next(steps, _DONE) is not _DONE:
                if monotonic() - began >= SLICE:
                    await self._rest()
                    began = monotonic()
        except Exception:  # noqa: BLE001 - a message must not be held for ever, whatever is wrong
            _log.exception("a long message cannot be handled")
            delivery.reject()
        finally:
            steps.close()
        await self._rest()

    async def _rest(self) -> None:
        """Let others have their turn, until the broker has confirmed most of what it was given."""
        await asyncio.sleep(0)
        until = monotonic() + LONGEST_REST
        while self._is_behind and monotonic() < until:  # noqa: ASYNC110 - told by nobody
            await asyncio.sleep(REST)

    @property
    def _is_behind(self) -> bool:
        self._sources = [one for one in self._sources if one.alive and one.remaining]
        return sum(one.remaining for one in self._sources) > MOST_UNSETTLED
