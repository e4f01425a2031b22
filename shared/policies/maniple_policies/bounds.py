"""Numbers that a task may choose itself: a default alone, or one with a maximum."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from maniple.messages import MAX_TTL
from maniple_policies.matching import StrictModel

PLAIN, CEILING = "(plain)", "(ceiling)"
"""How errors name the ways to write a number; no field is called so."""
Over = Literal["clamp", "reject"]
Attempts = Annotated[int, Field(ge=1, le=1000)]
Seconds = Annotated[float, Field(gt=0, le=MAX_TTL)]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The maximum that a task may choose, its policy, and whether more is refused or clamped."""

    value: float
    refuses: bool
    policy: str
    version: int


class _Bounded(StrictModel):
    """What a task gets that does not choose, and the maximum that it may choose.

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
    """A bounded number of seconds."""

    default: Seconds | None = None
    max: Seconds


class BoundedAttempts(_Bounded):
    """A bounded number of attempts."""

    default: Attempts | None = None
    max: Attempts


def _way(value: object) -> str:
    return CEILING if isinstance(value, dict | _Bounded) else PLAIN


SecondsOrBound = Annotated[
    Annotated[Seconds, Tag(PLAIN)] | Annotated[BoundedSeconds, Tag(CEILING)], Discriminator(_way)
]
AttemptsOrBound = Annotated[
    Annotated[Attempts, Tag(PLAIN)] | Annotated[BoundedAttempts, Tag(CEILING)], Discriminator(_way)
]


def terms(
    name: str, value: float | BoundedSeconds | BoundedAttempts, policy: str, version: int
) -> Mapping[str, Any]:
    """Return the value that a task gets for a field, and its ceiling if it has one."""
    if isinstance(value, BoundedSeconds | BoundedAttempts):
        most = Ceiling(value.max, value.over == "reject", policy, version)
        return {name: value.default or value.max, f"most_{name}": most}
    return {name: value}
