"""`retry`: how often a task is attempted, and with what delays."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from maniple.errors import ErrorCode
from maniple.messages import RetryPlan
from maniple_policies import bounds
from maniple_policies.bounds import AttemptsOrBound
from maniple_policies.matching import StrictModel
from maniple_policies.policy import Policy

Retryable = Literal[
    ErrorCode.TIMEOUT,
    ErrorCode.HANDLER_ERROR,
    ErrorCode.HANDLER_CRASHED,
    ErrorCode.INVALID_OUTPUT,
]


class RetrySpec(StrictModel):
    """How often a task is tried in all, and when again: full jitter over base * factor ** n.

    `attempts` alone is what a task has that does not choose; with a `max` it may choose below.

    `base` and `cap` are seconds; empty `codes` means every error that may be retried. With a
    `budget`, an agent repeats attempts of a lane only while that share of its recent ones is not
    exceeded.
    """

    attempts: AttemptsOrBound
    base: float = Field(default=1.0, ge=0, le=3600)
    factor: float = Field(default=2.0, ge=1, le=100)
    cap: float = Field(default=300.0, gt=0, le=3600)
    codes: tuple[Retryable, ...] = ()
    budget: float | None = Field(default=None, gt=0, le=1)

    @property
    def plan(self) -> RetryPlan:
        """The part that travels with a task."""
        return RetryPlan(
            base=self.base,
            factor=self.factor,
            cap=self.cap,
            codes=tuple(self.codes),
            budget=self.budget,
        )


class RetryPolicy(Policy):
    """Number and spacing of attempts."""

    DECIDES: ClassVar[bool] = False  # the agent does

    kind: Literal["retry"] = "retry"
    spec: RetrySpec

    @property
    def terms(self) -> Mapping[str, Any]:
        """The fields of `Resolved` that it sets."""
        attempts = bounds.terms("attempts", self.spec.attempts, self.key, self.version)
        return {**attempts, "retry": self.spec.plan}
