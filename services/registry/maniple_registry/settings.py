"""Settings of the registry, from `MANIPLE_…` variables."""

from typing import ClassVar

from pydantic import Field

from maniple.service.settings import HttpUrl, ServiceSettings


class RegistrySettings(ServiceSettings):
    """What a registry is told at its start."""

    service: ClassVar[str] = "registry"

    management_url: HttpUrl | None = Field(default=None, repr=False)
    """Management API with a login that may close the agents' connections; None: none are closed."""
    drain_timeout: float = Field(default=5.0, ge=0)
    """seconds to finish after SIGTERM"""
