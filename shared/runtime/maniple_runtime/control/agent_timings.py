"""The timings that an agent reports, because others rely on its keeping them."""

from typing import Annotated, Any, Final, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from maniple.timings import Timings
from maniple_runtime.control.field_types import Period


class AgentTimings(BaseModel):
    """What others rely on an agent keeping, in seconds; see `maniple.timings`."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    digest: Annotated[str, StringConstraints(max_length=64)]
    """Equal for equal timings, of which the other fields are the most important."""
    heartbeat: Period
    """The longest between two heartbeats."""
    unreachable: Period
    fenced: Period
    exclusive: Period
    """From the sending of the last confirmed heartbeat until nothing exclusive runs any more."""
    failed: Period

    @classmethod
    def of_timings(cls, timings: Timings) -> Self:
        """Return the part of these timings that is reported."""
        return cls.model_validate(timings.shown())


UNTOLD: Final = AgentTimings(
    digest="", heartbeat=3.3, unreachable=4.5, fenced=6.0, exclusive=8.25, failed=9.0
)
"""The timings of an agent that reports none: it is older than the field."""


def _understood(value: Any, validate: ValidatorFunctionWrapHandler) -> AgentTimings | None:
    try:
        return cast("AgentTimings | None", validate(value))
    except ValidationError:
        return None


ReportedTimings = Annotated[AgentTimings | None, WrapValidator(_understood)]
"""None of an agent that is older than this field, or that reports other values: see `UNTOLD`."""
