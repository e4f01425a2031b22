"""`bulkhead`: limits how many tasks are in flight."""

from typing import Literal

from pydantic import Field

from maniple_policies.matching import StrictModel
from maniple_policies.policy import Policy


class BulkheadSpec(StrictModel):
    """At most `max_in_flight` tasks between dispatch and end, in the whole fleet.

    Over it, `reject` refuses with `overloaded` and `retry_after`; `wait` lets the task wait.
    """

    max_in_flight: int = Field(ge=1, le=10_000_000)
    per: tuple[Literal["capability", "tenant"], ...] = Field(default=(), max_length=2)
    over: Literal["reject", "wait"] = "reject"


class BulkheadPolicy(Policy):
    """A limit on how many tasks are in flight."""

    kind: Literal["bulkhead"] = "bulkhead"
    spec: BulkheadSpec
