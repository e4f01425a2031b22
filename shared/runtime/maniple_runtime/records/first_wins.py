"""The first terminal result of each task wins; every other one is refused and counted. Pure.

"First" is by position in the stream, never by arrival, and a position counts once: so records may
be read in any order and any number of times, and the outcome is the same. A reader that stopped may
therefore start again anywhere before where it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from maniple.errors import ErrorCode
from maniple.messages import Result, Status, TaskAccepted, TaskAdmitted, TaskRunning
from maniple_runtime.events import Event
from maniple_runtime.records.entries import Entry, Position, TaskKey
from maniple_runtime.states import TaskState


class Verdict(StrEnum):
    """How a terminal result that was read is judged."""

    FIRST = "first"
    """It is the task's terminal state."""
    REFUSED = "refused"
    """The task had ended before: another execution's end, which changes nothing."""
    REPEATED = "repeated"
    """The same end, published again because its confirm was lost."""
    KNOWN = "known"
    """This position has been read before."""


class Ending(Struct, frozen=True):
    """How an execution ended: a result without its output. Equal ones are one end, repeated."""

    status: Status
    attempt: int
    lost: int
    agent: str | None
    started_at: datetime | None
    finished_at: datetime | None
    code: ErrorCode | None = None

    @classmethod
    def of_result(cls, result: Result) -> "Ending":
        """Return the part of a result that is kept."""
        return cls(
            status=result.status,
            attempt=result.attempt,
            lost=result.lost,
            agent=result.agent,
            started_at=result.started_at,
            finished_at=result.finished_at,
            code=result.error.code if result.error else None,
        )


@dataclass(frozen=True, slots=True)
class End:
    """An ending and where it stands; at more than one position if it was published again."""

    ending: Ending
    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class TaskFate:
    """What the records say of one task: `ends` by position, and the states before the end."""

    ends: tuple[End, ...] = ()
    before: TaskState | None = None

    @property
    def state(self) -> TaskState | None:
        """The task's state; before its end `accepted`, or `running` once an attempt reported so.

        The loss of an agent is not recorded, so a task stays `running` until it ends.
        """
        return TaskState(self.ends[0].ending.status) if self.ends else self.before

    @property
    def over(self) -> bool:
        """Whether the task has ended, also with a status that only a newer release knows."""
        return bool(self.ends)

    def heard(self, state: TaskState) -> "TaskFate":
        """Apply a record that is no end; records come in any order, and `running` says more."""
        if self.before in {state, TaskState.RUNNING}:
            return self
        return replace(self, before=state)

    def ended(self, ending: Ending, position: Position) -> tuple["TaskFate", Verdict]:
        """Apply a terminal result at `position`."""
        ends = list(self.ends)
        verdict = Verdict.REPEATED
        for place, known in enumerate(ends):
            if position in known.positions:
                return self, Verdict.KNOWN
            if ending == known.ending:
                ends[place] = replace(known, positions=tuple(sorted((*known.positions, position))))
                break
        else:
            ends.append(End(ending, (position,)))
            verdict = Verdict.REFUSED
        ends.sort(key=_first_position)
        if ends[0].positions[0] == position:
            verdict = Verdict.FIRST
        return replace(self, ends=tuple(ends)), verdict


def _first_position(end: End) -> Position:
    return end.positions[0]


class FirstWins:
    """The fates of all tasks that were read, in memory (some hundred bytes a task)."""

    def __init__(self) -> None:
        """Start without any record."""
        self._fates: dict[TaskKey, TaskFate] = {}
        self.next_offset = 0
        """Behind the last record that was applied: where to continue."""
        self.terminal = 0
        """Tasks that have ended."""
        self.refused = 0
        """Ends that came too late, each counted once."""
        self.repeated = 0
        """How often an end is repeated in the stream."""

    def __len__(self) -> int:
        return len(self._fates)

    def __iter__(self) -> Iterator[tuple[TaskKey, TaskFate]]:
        return iter(self._fates.items())

    def get(self, key: TaskKey) -> TaskFate | None:
        """Return what the records say of a task."""
        return self._fates.get(key)

    def take(self, entry: Entry) -> Verdict | None:
        """Apply one record; return the verdict on a terminal result, None for all others.

        Events of agents and policies say nothing about tasks, and an admission says nothing that
        lasts.
        """
        position, record = entry.position, entry.record
        self.next_offset = max(self.next_offset, position.offset + 1)
        if isinstance(record, Event | TaskAdmitted):
            return None
        key = TaskKey(record.tenant, record.id)
        fate = self._fates.get(key) or TaskFate()
        if isinstance(record, TaskAccepted | TaskRunning):
            running = isinstance(record, TaskRunning)
            self._fates[key] = fate.heard(TaskState.RUNNING if running else TaskState.ACCEPTED)
            return None
        return self._end(key, fate, record, position)

    def late(self) -> Iterator[tuple[TaskKey, End]]:
        """Iterate over the ends that were refused."""
        for key, fate in self._fates.items():
            for end in fate.ends[1:]:
                yield key, end

    def _end(self, key: TaskKey, fate: TaskFate, result: Result, position: Position) -> Verdict:
        after, verdict = fate.ended(Ending.of_result(result), position)
        if verdict is Verdict.KNOWN:
            return verdict
        self._fates[key] = after
        self.terminal += not fate.over
        if len(after.ends) == len(fate.ends):
            self.repeated += 1
        elif fate.over:
            self.refused += 1
        return verdict
