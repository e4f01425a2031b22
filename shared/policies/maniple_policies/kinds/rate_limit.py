"""`rate_limit`: limits how many tasks are admitted per second."""

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from maniple_policies.matching import StrictModel
from maniple_policies.policy import Policy, Variant

Key = Annotated[str, StringConstraints(pattern=r"^(capability|tenant|label:.{1,128})$")]
"""What a limit is divided by: `capability`, `tenant`, or `label:NAME`."""
MOST_TOKENS = 1_000_000
LONGEST_SHAPED = 3600.0  # seconds that a task may wait for its turn
SLOWEST, FASTEST = 1e-9, 1e12
"""Tokens per second of any bucket: beyond these, times between tokens are no numbers any more."""


class RateLimitSpec(StrictModel):
    """At most `limit` tasks in `period` seconds, in all dispatchers together.

    `burst` is how many may come at once after a rest (default: `limit`, at least 1). A
    `leaky_bucket` has none: tasks are let through 1 / rate seconds apart. `per` divides it: a
    limit of its own for each value. Over it, `reject` refuses with `rate_limited` and
    `retry_after`; `shape` lets the task wait for its turn, for at most `max_wait` seconds;
    `degrade` sends it to another `variant`.
    """

    limit: float = Field(gt=0, le=MOST_TOKENS)
    period: float = Field(default=1.0, gt=0, le=86_400)
    burst: float | None = Field(default=None, ge=1, le=MOST_TOKENS)
    algorithm: Literal["token_bucket", "leaky_bucket"] = "token_bucket"
    per: tuple[Key, ...] = Field(default=(), max_length=4)
    over: Literal["reject", "shape", "degrade"] = "reject"
    variant: Variant | None = None
    max_wait: float = Field(default=60.0, gt=0, le=LONGEST_SHAPED)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if (self.over == "degrade") != (self.variant is not None):
            raise ValueError("variant is for over: degrade, which needs it")
        if self.algorithm == "leaky_bucket" and self.burst is not None:
            raise ValueError("a leaky_bucket has no burst")
        return self

    @cached_property
    def rate(self) -> float:
        """Tasks per second, from `SLOWEST` to `FASTEST`."""
        return min(max(self.limit / self.period, SLOWEST), FASTEST)

    @cached_property
    def capacity(self) -> float:
        """Tokens in a full bucket."""
        if self.algorithm == "leaky_bucket":
            return 1.0
        return max(1.0, self.limit) if self.burst is None else self.burst


class RateLimitPolicy(Policy):
    """A limit on how many tasks are admitted per second."""

    kind: Literal["rate_limit"] = "rate_limit"
    spec: RateLimitSpec

    @property
    def variants(self) -> Iterable[str]:
        """The variant for tasks over the limit, if there is one."""
        return (self.spec.variant,) if self.spec.variant else ()
