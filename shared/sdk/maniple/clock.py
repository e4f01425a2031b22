"""Where a process reads the time: one value, made where the process is put together."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

# Linux has the first.
_STEADY: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _now() -> datetime:
    return datetime.now(UTC)


def _steady() -> float:
    return time.clock_gettime(_STEADY)


@dataclass(frozen=True)
class Clock:
    """What tells the time; `SYSTEM_CLOCK` is this machine's. What needs it is given one.

    Who reads it for every task keeps the one function that it needs.
    """

    now: Callable[[], datetime] = _now
    """The time of day, UTC. Somebody may set it."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds that nobody sets, and that stand still while the machine is suspended."""
    steady: Callable[[], float] = _steady
    """Seconds that nobody sets, and that pass while the machine is suspended, too."""


SYSTEM_CLOCK: Final = Clock()
