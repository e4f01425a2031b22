"""`ttl`: how long a task may live."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from maniple_policies import bounds
from maniple_policies.bounds import SecondsOrBound
from maniple_policies.matching import StrictModel
from maniple_policies.policy import Policy


class TtlSpec(StrictModel):
    """How long a task may live from when it is taken, in seconds, whatever it waits for.

    A number is what a task has that says neither `ttl` nor `deadline`; with a `max` it may choose
    below, and a `deadline` is bounded as well.
    """

    seconds: SecondsOrBound


class TtlPolicy(Policy):
    """The time limit of a task."""

    DECIDES: ClassVar[bool] = False  # its admission does

    kind: Literal["ttl"] = "ttl"
    spec: TtlSpec

    @property
    def terms(self) -> Mapping[str, Any]:
        """The fields of `Resolved` that it sets."""
        return bounds.terms("ttl", self.spec.seconds, self.key, self.version)
