"""Settings of an agent."""

import os
import re
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from maniple.clusters import BROKER_VARIABLE, NO_CLIENT_VARIABLE
from maniple.messages import VARIANT_PATTERN
from maniple_runtime.settings import BrokerUrl, ServiceSettings

Words = Annotated[tuple[str, ...], NoDecode]


class AgentSettings(ServiceSettings):
    """What an agent is told at its start."""

    service: ClassVar[str] = "agent"

    client_url: BrokerUrl | None = Field(default=None, repr=False)
    """RabbitMQ with a client's login, for `connect()` in handlers; without it they have none"""
    handlers: Words = ()
    """modules, or paths ending in `.py`, by comma"""
    variants: Words = ()
    """variants of its capabilities that it serves besides, by comma"""
    labels: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    """`region=eu,disk=ssd`: shown by `maniple agents --json`"""
    slots: int = Field(default=256, ge=1, le=100_000)
    """async handlers at once"""
    threads: int = Field(default=16, ge=1, le=1000)
    """plain handlers at once"""
    processes: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=1000)
    """worker processes for `executor="process"`"""
    process_memory: int = Field(default=2 * 1024**3, ge=64 * 1024**2)
    """bytes of memory of one (see Workers' memory); `@task(memory=…)` overrides it"""
    held_bytes: int = Field(default=64 * 1024**2, ge=1024**2)
    """bytes of messages held at once, about (see Memory)"""
    drain_timeout: float = Field(default=20.0, ge=0)
    """seconds to finish after SIGTERM"""

    @property
    def handed_on(self) -> dict[str, str]:
        """A login of their own for handlers, or that there is none, as `connect()` looks for it."""
        if self.client_url is None:
            return {NO_CLIENT_VARIABLE: "1"}
        return {BROKER_VARIABLE: self.client_url}

    @field_validator("handlers", "variants", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(word.strip() for word in value.split(",") if word.strip())
        return value

    @field_validator("variants")
    @classmethod
    def _variants(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for variant in value:
            if not re.match(VARIANT_PATTERN, variant):
                raise ValueError(f"{variant!r} must be lower-case letters, digits, '_' and '-'")
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [word.partition("=") for word in value.split(",") if word.strip()]
        if any(not equals for _, equals, _ in pairs):
            raise ValueError("must look like region=eu,disk=ssd")
        return {key.strip(): text.strip() for key, _, text in pairs}
