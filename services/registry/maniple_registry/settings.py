"""Settings of the registry, from `MANIPLE_…` variables."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from maniple_runtime.settings import HttpUrl, ServiceSettings, check_tls
from maniple_runtime.tls import Tls


class RegistrySettings(ServiceSettings):
    """Settings of a registry."""

    service: ClassVar[str] = "registry"

    management_url: HttpUrl | None = Field(default=None, repr=False)
    """Management API with a login that may close the agents' connections; None: none are closed."""
    management_cacert: Path | None = None
    """PEM of the authorities of the management API's certificate, instead of the well-known ones"""
    management_cert: Path | None = None
    """PEM of the certificate to show to the management API, if it asks for one"""
    management_key: Path | None = None
    """PEM of that certificate's key, if it is not in the same file"""
    drain_timeout: float = Field(default=5.0, ge=0)
    """seconds to finish after SIGTERM"""

    @property
    def management_tls(self) -> Tls:
        """The TLS files for the management API."""
        return Tls(self.management_cacert, self.management_cert, self.management_key)

    @model_validator(mode="after")
    def _management_in_tls(self) -> Self:
        check_tls("management", self.management_url or "", self.management_tls)
        return self
