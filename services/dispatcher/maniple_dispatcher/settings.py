"""Settings of the dispatcher, from `MANIPLE_…` variables."""

from typing import ClassVar

from pydantic import Field

from maniple.service.settings import ServiceSettings


class DispatcherSettings(ServiceSettings):
    """What a dispatcher is told at its start."""

    service: ClassVar[str] = "dispatcher"

    prefetch: int = Field(default=256, ge=1, le=10_000)
    """Submissions held at once; each is at most 1 MiB."""
    retry_prefetch: int = Field(default=64, ge=1, le=10_000)
    drain_timeout: float = Field(default=5.0, ge=0)
