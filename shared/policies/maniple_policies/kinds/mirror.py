"""`mirror`: copies a share of the tasks to a variant."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from maniple_policies.matching import StrictModel
from maniple_policies.policy import Percent, Policy, Variant


class MirrorSpec(StrictModel):
    """Copies `percent` of the tasks to a variant; the copy's result is recorded, never returned."""

    variant: Variant
    percent: Percent


class MirrorPolicy(Policy):
    """Copies of tasks for a variant."""

    NAMED_WHERE_IT_ACTS: ClassVar[bool] = True

    kind: Literal["mirror"] = "mirror"
    spec: MirrorSpec

    @property
    def variants(self) -> Iterable[str]:
        """The variant that gets the copies."""
        return (self.spec.variant,)
