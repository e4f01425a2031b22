"""Settings of the dispatcher, from `MANIPLE_…` variables."""

from typing import ClassVar

from pydantic import Field

from maniple_runtime.settings import ServiceSettings


class DispatcherSettings(ServiceSettings):
    """What a dispatcher is told at its start."""

    service: ClassVar[str] = "dispatcher"

    prefetch: int = Field(default=256, ge=1, le=10_000)
    """Submissions held at once; each is at most 1 MiB."""
    retry_prefetch: int = Field(default=16, ge=1, le=10_000)
    """Bundles that come back together hold up the loop: 16 of 128 tasks for about 20 ms."""
    held_bytes: int = Field(default=32 * 1024**2, ge=1024**2)
    """bytes of messages held at once, about (see Memory)"""
    trace_ratio: float = Field(default=0.01, ge=0, le=1)
    """share of the tasks without a trace of their own whose trace is kept"""
    drain_timeout: float = Field(default=5.0, ge=0)
    """seconds to finish after SIGTERM"""
