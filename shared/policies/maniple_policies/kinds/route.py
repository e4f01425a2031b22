"""`route`: distributes tasks among the variants of their capability."""

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from maniple_policies.matching import StrictModel
from maniple_policies.policy import Policy, Variant

Sticky = Annotated[str, StringConstraints(pattern=r"^(task|affinity|tenant|label:.{1,128})$")]


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
        """The sum of all weights."""
        return sum(share.weight for share in self.variants)


class RoutePolicy(Policy):
    """The variants of a capability, by weight."""

    kind: Literal["route"] = "route"
    spec: RouteSpec

    @property
    def variants(self) -> Iterable[str]:
        """The variants that get tasks."""
        return [share.variant for share in self.spec.variants if share.variant and share.weight]
