"""The registry's sense of time: what passes while it cannot hear is not held against agents."""

import time
from datetime import UTC, datetime

from maniple_registry.domain.membership import Instant

LONGEST_STEP = 1.0  # seconds; a longer one means that this process itself stood still


class Clock:
    """Counts only seconds in which the registry could hear: connected and not frozen itself."""

    def __init__(self) -> None:
        self._lost = 0.0
        self._seen = time.monotonic()

    def now(self) -> Instant:
        """Return the time, without what was lost."""
        return Instant(time.monotonic() - self._lost, datetime.now(UTC))

    def step(self, *, hearing: bool) -> None:
        """Say, some times a second, whether heartbeats could be heard since the last call."""
        now = time.monotonic()
        passed = now - self._seen
        self._seen = now
        if not hearing:
            self._lost += passed
        elif passed > LONGEST_STEP:
            self._lost += passed - LONGEST_STEP
