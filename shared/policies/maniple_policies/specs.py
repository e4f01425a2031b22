"""What each kind of policy may say: its `spec`."""

import json
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    model_validator,
)

from maniple.errors import ErrorCode
from maniple.messages import MAX_TTL
from maniple.tasks import is_capability
from maniple_policies.matching import StrictModel

MAX_VALUE = 64 * 1024  # bytes of JSON of a fallback's value

Variant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


def _capability(name: str) -> str:
    if not is_capability(name):
        raise ValueError("must be a dotted lower-case name such as 'text.stats'")
    return name


Capability = Annotated[str, AfterValidator(_capability)]
Key = Annotated[str, StringConstraints(pattern=r"^(capability|tenant|label:.{1,128})$")]
"""What limits are divided by: `capability`, `tenant`, or `label:NAME`."""
Sticky = Annotated[str, StringConstraints(pattern=r"^(task|affinity|tenant|label:.{1,128})$")]
Percent = Annotated[float, Field(ge=0, le=100)]
Retryable = Literal[
    ErrorCode.TIMEOUT,
    ErrorCode.HANDLER_ERROR,
    ErrorCode.HANDLER_CRASHED,
    ErrorCode.INVALID_OUTPUT,
]
Refusal = Literal[ErrorCode.RATE_LIMITED, ErrorCode.CIRCUIT_OPEN, ErrorCode.OVERLOADED]
REFUSALS: tuple[Refusal, ...] = (
    ErrorCode.RATE_LIMITED,
    ErrorCode.CIRCUIT_OPEN,
    ErrorCode.OVERLOADED,
)


class RateLimitSpec(StrictModel):
    """At most `limit` tasks in `period` seconds, in all dispatchers together.

    `burst` is how many may come at once after a rest (default: `limit`, at least 1). A
    `leaky_bucket` has none: tasks are let through 1 / rate seconds apart. `per` divides it: a
    limit of its own for each value. Over it, `reject` refuses with `rate_limited` and
    `retry_after`; `shape` lets the task wait for its turn, for at most `max_wait` seconds;
    `degrade` sends it to another `variant`.
    """

    limit: float = Field(gt=0, le=1_000_000)
    period: float = Field(default=1.0, gt=0, le=86_400)
    burst: float | None = Field(default=None, ge=1, le=1_000_000)
    algorithm: Literal["token_bucket", "leaky_bucket"] = "token_bucket"
    per: tuple[Key, ...] = Field(default=(), max_length=4)
    over: Literal["reject", "shape", "degrade"] = "reject"
    variant: Variant | None = None
    max_wait: float = Field(default=60.0, gt=0, le=3600)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if (self.over == "degrade") != (self.variant is not None):
            raise ValueError("variant is for over: degrade, which needs it")
        if self.algorithm == "leaky_bucket" and self.burst is not None:
            raise ValueError("a leaky_bucket has no burst")
        return self

    @cached_property
    def rate(self) -> float:
        """Tasks per second."""
        return self.limit / self.period

    @cached_property
    def capacity(self) -> float:
        """Tokens that a full bucket holds."""
        if self.algorithm == "leaky_bucket":
            return 1.0
        return max(1.0, self.limit) if self.burst is None else self.burst


class BulkheadSpec(StrictModel):
    """At most `max_in_flight` tasks between dispatch and end, in the whole fleet.

    Over it, `reject` refuses with `overloaded` and `retry_after`; `wait` lets the task wait.
    """

    max_in_flight: int = Field(ge=1, le=10_000_000)
    per: tuple[Literal["capability", "tenant"], ...] = Field(default=(), max_length=2)
    over: Literal["reject", "wait"] = "reject"


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


class FallbackSpec(StrictModel):
    """What a task gets that is refused with one of the codes in `on`; give exactly one.

    `value` is a fixed output, not null; `last_good` what the last task with the same tenant,
    capability and payload returned, at most `max_age` seconds ago; `capability` runs another one
    instead; `accept` answers that the task is accepted and sends the result when there is room.
    """

    on: tuple[Refusal, ...] = Field(default=REFUSALS, min_length=1)
    value: JsonValue = None
    last_good: bool = False
    max_age: float = Field(default=3600.0, gt=0, le=86_400)
    capability: Capability | None = None
    accept: bool = False

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = (
            (self.value is not None) + self.last_good + (self.capability is not None) + self.accept
        )
        if given != 1:
            raise ValueError("give exactly one of value, last_good, capability and accept")
        if len(json.dumps(self.value, ensure_ascii=False).encode()) > MAX_VALUE:
            raise ValueError(f"value must be at most {MAX_VALUE} bytes of JSON")
        return self


class Share(StrictModel):
    """A variant (null is the plain lane) and its weight among the others."""

    variant: Variant | None = None
    weight: float = Field(ge=0, le=1_000_000)


class RouteSpec(StrictModel):
    """Divides tasks among variants of their capability by weight.

    What has the same `sticky` (the task's id, its affinity, its tenant, a label) takes the same
    way as long as the weights stay; a task without it goes by its id.
    """

    variants: tuple[Share, ...] = Field(min_length=1, max_length=64)
    sticky: Sticky = "task"

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        names = [share.variant for share in self.variants]
        if len(set(names)) != len(names):
            raise ValueError("a variant stands there twice")
        if not self.weight:
            raise ValueError("at least one weight must be above 0")
        return self

    @cached_property
    def weight(self) -> float:
        """Of all variants together."""
        return sum(share.weight for share in self.variants)


class MirrorSpec(StrictModel):
    """Copies `percent` of the tasks to a variant; the copy's result is recorded, never returned."""

    variant: Variant
    percent: Percent


PLAIN, CEILING = "(plain)", "(ceiling)"
"""How errors name the ways to write a number; no field is called so."""


def _way(value: object) -> str:
    return CEILING if isinstance(value, dict | _Bounded) else PLAIN


Over = Literal["clamp", "reject"]
Attempts = Annotated[int, Field(ge=1, le=1000)]
Seconds = Annotated[float, Field(gt=0, le=MAX_TTL)]


class _Bounded(StrictModel):
    """What a task has that does not choose, and the most that it may choose.

    Without a `default` that is `max`. Above `max`, `clamp` gives it `max`, `reject` refuses it.
    """

    over: Over = "clamp"

    @model_validator(mode="after")
    def _is_below_max(self) -> Self:
        default, most = getattr(self, "default", None), getattr(self, "max", None)
        if default is not None and most is not None and default > most:
            raise ValueError("default must not be above max")
        return self


class BoundedSeconds(_Bounded):
    """Seconds."""

    default: Seconds | None = None
    max: Seconds


class BoundedAttempts(_Bounded):
    """Attempts."""

    default: Attempts | None = None
    max: Attempts


class RetrySpec(StrictModel):
    """How often a task is tried in all, and when again: full jitter over base * factor ** n.

    `attempts` alone is what a task has that does not choose; with a `max` it may choose below.

    `base` and `cap` are seconds; empty `codes` means every error that may be retried. With a
    `budget`, an agent repeats attempts of a lane only while that share of its recent ones is not
    exceeded.
    """

    attempts: Annotated[
        Annotated[Attempts, Tag(PLAIN)] | Annotated[BoundedAttempts, Tag(CEILING)],
        Discriminator(_way),
    ]
    base: float = Field(default=1.0, ge=0, le=3600)
    factor: float = Field(default=2.0, ge=1, le=100)
    cap: float = Field(default=300.0, gt=0, le=3600)
    codes: tuple[Retryable, ...] = ()
    budget: float | None = Field(default=None, gt=0, le=1)


class TimeoutSpec(StrictModel):
    """How long one attempt may run, in seconds.

    A number is what a task has that does not choose; with a `max` it may choose below.
    """

    seconds: Annotated[
        Annotated[Seconds, Tag(PLAIN)] | Annotated[BoundedSeconds, Tag(CEILING)],
        Discriminator(_way),
    ]


class TtlSpec(StrictModel):
    """How long a task may live from when it is taken, in seconds, whatever it waits for.

    A number is what a task has that says neither `ttl` nor `deadline`; with a `max` it may choose
    below, and a `deadline` is bounded as well.
    """

    seconds: Annotated[
        Annotated[Seconds, Tag(PLAIN)] | Annotated[BoundedSeconds, Tag(CEILING)],
        Discriminator(_way),
    ]
