"""Settings of the registry, from `MANIPLE_…` variables."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from maniple.service.settings import HttpUrl, ServiceSettings
from maniple_registry.domain.records import Bounds


class RegistrySettings(ServiceSettings):
    """What a registry is told at its start; seconds of silence, see `Bounds`."""

    service: ClassVar[str] = "registry"

    management_url: HttpUrl | None = Field(default=None, repr=False)
    """Management API with a login that may close the agents' connections; None: none are closed."""
    unreachable_after: float = Field(default=4.5, gt=0)
    failed_after: float = Field(default=9.0, gt=0)
    forgotten_after: float = Field(default=600.0, gt=0)
    drain_timeout: float = Field(default=5.0, ge=0)
    """seconds to finish after SIGTERM"""

    @property
    def bounds(self) -> Bounds:
        """Bounds of the state machine."""
        return Bounds(self.unreachable_after, self.failed_after, self.forgotten_after)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.unreachable_after >= self.failed_after:
            raise ValueError("MANIPLE_UNREACHABLE_AFTER must be less than MANIPLE_FAILED_AFTER")
        return self
