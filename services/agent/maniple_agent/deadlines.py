"""Whether a task's time is over, which an agent only says by the cluster's time."""

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from enum import Enum, auto
from typing import Final, NamedTuple

from maniple.attempts import seconds_for, timeout_of
from maniple.messages import Envelope
from maniple.tasks import TaskDefinition

MOST_ASKED: Final = 10_000

Known = Callable[[], datetime | None]
"""Returns the cluster's time, or None where no registry has told it."""


class DeadlineFate(Enum):
    """What a deadline makes of a task."""

    RUNS = auto()
    EXPIRED = auto()
    ASKED = auto()
    """It is over by this machine's clock alone: a dispatcher is to judge."""


class Moment(NamedTuple):
    """The time by which what happens now is dated, and the cluster's as far as it is known."""

    at: datetime
    known: datetime | None
    """By which alone anything is over; None while nobody has told it."""


class TaskDeadlines:
    """Judges deadlines; who does not know the cluster's time has a dispatcher judge, once a task.

    What comes back from there runs: it was not over.
    """

    def __init__(self, known: Known, clock: Callable[[], datetime]) -> None:
        """Judge by `known`; `clock` dates what happens."""
        self.known = known
        self.clock = clock
        self._asked: OrderedDict[tuple[str, str], None] = OrderedDict()

    def now(self) -> Moment:
        """Return the time; once for all tasks that are looked at together."""
        return Moment(self.clock(), self.known())

    def fate(self, envelope: Envelope, now: Moment) -> DeadlineFate:
        """Return what is to become of a task that has not started."""
        if envelope.deadline > (now.known or now.at):
            return DeadlineFate.RUNS
        if now.known is not None:
            return DeadlineFate.EXPIRED
        key = (envelope.tenant, envelope.id)
        if key in self._asked:
            return DeadlineFate.RUNS
        self._asked[key] = None
        if len(self._asked) > MOST_ASKED:
            self._asked.popitem(last=False)
        return DeadlineFate.ASKED


def seconds_of(envelope: Envelope, definition: TaskDefinition, now: Moment) -> float:
    """Return the seconds that an attempt has: until the deadline only where that is known."""
    if now.known is not None:
        return seconds_for(envelope, definition, now.known)
    return timeout_of(envelope, definition)
