"""What documents of all kinds have: a name, a match, a rollout, a version."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from maniple_policies.matching import Match, StrictModel

MOST_VERSIONS = 2**40
"""The sum of the versions of thousands of policies is a revision, see `maniple_runtime.events`."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Variant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Percent = Annotated[float, Field(ge=0, le=100)]


class Rollout(StrictModel):
    """For which share a version applies already; the others have the last whole version.

    `by` task: for `percent` of the tasks, the same ones as long as it only rises. `by` instance:
    for about `percent` of the processes that evaluate it.
    """

    percent: Percent
    by: Literal["instance", "task"] = "task"

    @property
    def whole(self) -> bool:
        """Whether it applies to all."""
        return self.percent >= 100  # noqa: PLR2004 - percent


class Policy(StrictModel):
    """A document; each kind has a class of its own, with its `kind` and its `spec`.

    A kind describes its effects by overriding the attributes below.
    """

    DECIDES: ClassVar[bool] = True
    """Whether a stage of the dispatcher's pipeline decides by it about a task.

    A kind that says nothing does: a task that takes the long way for nothing costs a microsecond,
    one that passes by a limit costs whoever set it.
    """
    NAMED_WHERE_IT_ACTS: ClassVar[bool] = False
    """Whether a result names it only if it acted, and not whenever it applies."""

    name: Name
    match: Match = Match()
    rollout: Rollout | None = None
    version: int = Field(default=0, ge=0, le=MOST_VERSIONS)
    kind: str
    spec: StrictModel

    @cached_property
    def key(self) -> str:
        """`kind/name`, by which results and processes name policies."""
        return f"{self.kind}/{self.name}"

    @property
    def terms(self) -> Mapping[str, Any]:
        """The fields of `Resolved` that it sets, for a task that does not choose."""
        return {}

    @property
    def variants(self) -> Iterable[str]:
        """The variants to which it sends tasks."""
        return ()

    @property
    def instead(self) -> str | None:
        """The capability that may run in place of the task's own."""
        return None

    @property
    def keeps_good(self) -> bool:
        """Whether it may return a task's result for a later one."""
        return False
