"""Decisions of this registry that were not seen carried out yet. Pure: time is an argument.

A leader carries out everything at once. A standby waits whether another registry does it, and does
it itself when none has: so a leader that dies or freezes at the worst moment delays nothing for
longer.

An eviction is the exception: it is never seen carried out, so every standby repeats it. The event
of a failure does not prove that connections were closed; the leader may have died in between.
"""

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from operator import attrgetter

from maniple.timings import Standby
from maniple_registry.domain.agent_record import AgentRecord
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.messages import Command, Reconnect
from maniple_runtime.events import AgentEvent


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a command to an agent."""

    agent: AgentId
    command: Command


@dataclass(frozen=True, slots=True)
class Evict:
    """Close the connections of a failed agent, and remove its entry from Consul."""

    record: AgentRecord


Deed = AgentEvent | Tell | Evict


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    due: float
    number: int
    key: Hashable = field(compare=False)  # kept: that of an event is costly to make
    deed: Deed = field(compare=False)


class PendingActions:
    """Actions in the order of their decision; one that was seen done is not repeated.

    Adding costs a logarithm; asking costs nothing for what is not due yet.
    """

    def __init__(self, standby: Standby | None = None) -> None:
        self._times = standby or Standby()
        self._waiting: list[_Waiting] = []
        self._numbers = itertools.count()
        self._keys: set[Hashable] = set()
        self._seen: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def add_action(self, deed: Deed, now: float, *, led: bool = True) -> None:
        """Add an action, unless it is pending already or was seen done.

        `led`: whether any registry leads, as far as is known.
        """
        key = _key(deed)
        if key not in self._keys and not self._is_done(key, now):
            self._keys.add(key)
            waiting = _Waiting(now + self._grace(deed, led=led), next(self._numbers), key, deed)
            heapq.heappush(self._waiting, waiting)

    def see(self, event_id: str, now: float) -> None:
        """Record that some registry (perhaps this one) has published the event of this id."""
        self._seen[event_id] = now
        self._seen.move_to_end(event_id)
        while next(iter(self._seen.values())) < now - self._times.remembered:
            self._seen.popitem(last=False)

    def due(self, now: float, *, leading: bool) -> list[Deed]:
        """Return, once each, the actions that are due; those seen done meanwhile are dropped."""
        taken: list[_Waiting] = []
        if leading:
            taken, self._waiting = self._waiting, []
        while self._waiting and self._waiting[0].due <= now:
            taken.append(heapq.heappop(self._waiting))
        taken.sort(key=attrgetter("number"))
        self._keys.difference_update(waiting.key for waiting in taken)
        return [waiting.deed for waiting in taken if not self._is_done(waiting.key, now)]

    def _is_done(self, key: Hashable, now: float) -> bool:
        return now - self._seen.get(key, -math.inf) <= self._times.remembered

    def _grace(self, deed: Deed, *, led: bool) -> float:
        # Whether an agent has been told to reconnect shows when it takes its work again, not at
        # once; telling it twice would have it build its connections twice, and eviction find the
        # newest ones without a name. So while somebody leads, another says it only when there was
        # time for all that.
        reconnects = isinstance(deed, Tell) and isinstance(deed.command, Reconnect)
        return self._times.reconnect_grace if reconnects and led else self._times.grace


def _key(deed: Deed) -> Hashable:
    match deed:
        case AgentEvent():
            return deed.id
        case Tell():
            return deed.agent, deed.command
        case Evict():
            return Evict, deed.record.agent, deed.record.incarnation
