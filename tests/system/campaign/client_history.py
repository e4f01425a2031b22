"""The history of submitters: what the broker confirmed of their tasks, and what they were told."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Told:
    """A result that a submitter got."""

    status: str
    output: float | None


@dataclass
class ClientHistory:
    """Confirmed and ended tasks by id, these with the first result that was told.

    `again` counts results of tasks that had been told of: they come at least once. `contradicted`
    are, by task, those that say something else than the first. `news` are the Unix times at which
    a submitter was told of a task for the first time.
    """

    confirmed: set[str] = field(default_factory=set)
    told: dict[str, Told] = field(default_factory=dict)
    again: int = 0
    contradicted: dict[str, Told] = field(default_factory=dict)
    news: list[float] = field(default_factory=list)

    def confirm(self, task: str) -> None:
        """The broker has taken a task: from now on it must not be lost."""
        self.confirmed.add(task)

    def tell(self, task: str, told: Told) -> None:
        """A submitter was told how its task ended."""
        first = self.told.setdefault(task, told)
        if first is told:
            self.news.append(time.time())
            return
        self.again += 1
        if first != told:
            self.contradicted[task] = told
