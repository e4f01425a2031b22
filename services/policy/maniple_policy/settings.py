"""Settings of the policy service, from `MANIPLE_…` variables."""

from typing import ClassVar

from pydantic import Field

from maniple_runtime.settings import ServiceSettings


class PolicySettings(ServiceSettings):
    """Settings of a policy service; `data_dir` holds its copy of the store."""

    service: ClassVar[str] = "policy"

    drain_timeout: float = Field(default=5.0, ge=0)
    """seconds to finish after SIGTERM"""
