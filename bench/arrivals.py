"""Tasks that are due at fixed moments, whether or not earlier ones have ended: an open loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

TICK = 0.0005  # seconds: shorter sleeps cost more than they tell


class Arrivals:
    """Tasks due at `rate` a second for `seconds`; each one's payload is its number."""

    def __init__(
        self, rate: float, seconds: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._started = 0.0
        self.count = int(rate * seconds)

    def due(self, number: int) -> float:
        """Return when a task was due, as the clock tells it."""
        return self._started + number / self._rate

    async def __aiter__(self) -> AsyncIterator[int]:
        """Iterate over the numbers, each not before it is due."""
        self._started = self._clock()
        for number in range(self.count):
            if (early := self.due(number) - self._clock()) > 0:
                await asyncio.sleep(max(early, TICK))
            yield number
