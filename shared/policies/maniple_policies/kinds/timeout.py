"""`timeout`: how long one attempt may run."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from maniple_policies import bounds
from maniple_policies.bounds import SecondsOrBound
from maniple_policies.matching import StrictModel
from maniple_policies.policy import Policy


class TimeoutSpec(StrictModel):
    """How long one attempt may run, in seconds.

    A number is what a task has that does not choose; with a `max` it may choose below.
    """

    seconds: SecondsOrBound


class TimeoutPolicy(Policy):
    """The time limit of an attempt."""

    DECIDES: ClassVar[bool] = False  # the agent does

    kind: Literal["timeout"] = "timeout"
    spec: TimeoutSpec

    @property
    def terms(self) -> Mapping[str, Any]:
        """The fields of `Resolved` that it sets."""
        return bounds.terms("timeout", self.spec.seconds, self.key, self.version)
