"""Settings of the dispatcher, from `MANIPLE_…` variables."""

from typing import ClassVar

from pydantic import Field

from maniple.service.settings import Seconds, ServiceSettings


class DispatcherSettings(ServiceSettings):
    """What a dispatcher is told at its start."""

    service: ClassVar[str] = "dispatcher"

    prefetch: int = Field(default=256, ge=1, le=10_000)
    """Submissions held at once; each is at most 1 MiB."""
    retry_prefetch: int = Field(default=16, ge=1, le=10_000)
    """Bundles that come back together hold up the loop: 16 of 128 tasks for about 20 ms."""
    leftover_quiet: Seconds | None = None
    """seconds without a message until the queue of an agent that is gone is removed; 30 by scale

    Longer than the broker takes to notice that a connection is dead (three heartbeats of 5 s).
    """
    trace_ratio: float = Field(default=0.01, ge=0, le=1)
    """share of the tasks without a trace of their own whose trace is kept"""
    drain_timeout: float = Field(default=5.0, ge=0)
    """seconds to finish after SIGTERM"""

    @property
    def quiet(self) -> float:
        """What `leftover_quiet` says, or what all dispatchers keep."""
        return self.leftover_quiet or self.timings.queues.leftover
