"""`fallback`: what a refused task gets instead."""

import json
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from maniple.errors import ErrorCode
from maniple.tasks import is_capability
from maniple_policies.matching import StrictModel
from maniple_policies.policy import Policy

MAX_VALUE = 64 * 1024  # bytes of JSON of a fallback's value


def _capability(name: str) -> str:
    if not is_capability(name):
        raise ValueError("must be a dotted lower-case name such as 'text.stats'")
    return name


Capability = Annotated[str, AfterValidator(_capability)]
Refusal = Literal[ErrorCode.RATE_LIMITED, ErrorCode.CIRCUIT_OPEN, ErrorCode.OVERLOADED]
REFUSALS: tuple[Refusal, ...] = (
    ErrorCode.RATE_LIMITED,
    ErrorCode.CIRCUIT_OPEN,
    ErrorCode.OVERLOADED,
)


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


class FallbackPolicy(Policy):
    """What refused tasks get instead."""

    DECIDES: ClassVar[bool] = False  # what refuses decides first
    NAMED_WHERE_IT_ACTS: ClassVar[bool] = True

    kind: Literal["fallback"] = "fallback"
    spec: FallbackSpec

    @property
    def instead(self) -> str | None:
        """The capability that runs in place of a refused one."""
        return self.spec.capability

    @property
    def keeps_good(self) -> bool:
        """Whether it returns the last good result."""
        return self.spec.last_good
