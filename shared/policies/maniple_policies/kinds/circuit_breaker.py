"""`circuit_breaker`: stops sending tasks to a lane whose tasks fail."""

from typing import Literal, Self

from pydantic import Field, model_validator

from maniple_policies.matching import ANY, StrictModel
from maniple_policies.policy import Policy


class CircuitBreakerSpec(StrictModel):
    """Opens the lane's breaker on failures, and lets `probes` tasks through after `open_for` s.

    It trips after `consecutive` failures since the last success, or when at least
    `minimum` attempts of the last `window` seconds failed by `ratio` or more. Timeouts and lost
    agents count as failures; empty `codes` means every error code.
    """

    consecutive: int | None = Field(default=None, ge=1, le=1_000_000)
    ratio: float | None = Field(default=None, gt=0, le=1)
    window: float = Field(default=30.0, ge=1, le=3600)
    minimum: int = Field(default=20, ge=1, le=1_000_000)
    open_for: float = Field(default=30.0, ge=0.5, le=3600)
    probes: int = Field(default=1, ge=1, le=10_000)

    @model_validator(mode="after")
    def _trips(self) -> Self:
        if self.consecutive is None and self.ratio is None:
            raise ValueError("give consecutive, ratio or both: it would never open")
        return self


class CircuitBreakerPolicy(Policy):
    """A breaker for each lane that it matches; a lane is all tenants' and all labels'."""

    kind: Literal["circuit_breaker"] = "circuit_breaker"
    spec: CircuitBreakerSpec

    @model_validator(mode="after")
    def _is_of_lanes(self) -> Self:
        if self.match.tenant != ANY or self.match.labels or self.match.region != ANY:
            raise ValueError("a circuit_breaker is of lanes: match it by capability or instance")
        if self.rollout is not None and self.rollout.by == "task":
            raise ValueError("a circuit_breaker is of lanes: roll it out by instance")
        return self
