"""A machine with clocks of its own, and the broadcasts of registries."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from maniple.clock import Clock
from maniple.timings import Clocks
from maniple_runtime.cluster_time import ClusterTime
from maniple_runtime.control.messages import Time
from needs import PROC, need

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TIMES = Clocks()


class Slept:
    """A suspension of the machine for `seconds`: `CLOCK_MONOTONIC` stood still meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        need(PROC)  # Linux
        self.seconds, self._real = 0.0, time.clock_gettime
        monkeypatch.setattr(time, "clock_gettime", self._clock_gettime)

    def _clock_gettime(self, which: int) -> float:
        slept = self.seconds if which == time.CLOCK_BOOTTIME else 0.0
        return self._real(which) + slept


class Machine:
    """A process: its own clock is wrong by `wrong` seconds, its steady one starts anywhere."""

    def __init__(self, wrong: float = 0.0, steady: float = 1000.0) -> None:
        self.passed, self._wrong, self._steady = 0.0, wrong, steady
        self.time = ClusterTime(
            Clock(now=self.wall, steady=lambda: self._steady + self.passed), TIMES
        )

    def wall(self) -> datetime:
        return NOON + timedelta(seconds=self.passed + self._wrong)

    def told(self, *, ahead: float = 0.0, late: float = 0.0, source: str = "r1") -> None:
        """Receive the broadcast of a registry whose clock is `ahead`, `late` seconds later."""
        at = NOON + timedelta(seconds=self.passed + ahead - late)
        self.time.on_time(Time(at=at, source=source))

    @property
    def ahead(self) -> float:
        """Return how far the time known here is ahead of the true one."""
        known = self.time.known()
        assert known is not None
        return (known - NOON).total_seconds() - self.passed
