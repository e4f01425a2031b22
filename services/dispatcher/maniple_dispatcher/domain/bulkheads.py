"""How many tasks of a bulkhead are in flight, as its owner knows it. Pure.

Measured, so that nothing leaks with a lost agent or dispatcher. Agents report how many of its tasks
they have now, and how many have left it since their last report. Between dispatch and delivery a
task is in a queue, where nobody counts it by bulkhead: so what was granted and has not left counts
as in flight too, until the queues are seen to be empty; then only what agents have counts, and what
was granted so lately that it may not have got there.

The owner tells the other dispatchers what it has granted, so that whoever owns the bulkhead next
knows what may be in a queue. Known weakness: what it granted to itself in the few milliseconds
before it died.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from maniple.peers import Room
from maniple.timings import Reports

MAX_LANES = 64
AT_REST: Room = (0, ())


@dataclass(frozen=True, slots=True)
class Held:
    """What an agent reports: tasks of a bulkhead that it has, and how many left it just now."""

    key: str
    here: int
    ended: int


@dataclass(slots=True)
class _Agent:
    heard_at: float
    held: dict[str, Held]


@dataclass(slots=True)
class _Bulkhead:
    counted: int = 0
    grants: deque[tuple[float, int]] = field(default_factory=deque)
    lanes: set[str] = field(default_factory=set)

    def lately(self, now: float, seconds: float) -> int:
        while self.grants and now - self.grants[0][0] > seconds:
            self.grants.popleft()
        return sum(number for _, number in self.grants)

    def grant(self, number: int, lanes: Iterable[str], now: float) -> None:
        self.counted += number
        self.grants.append((now, number))
        for lane in lanes:
            if len(self.lanes) < MAX_LANES:
                self.lanes.add(lane)

    @property
    def room(self) -> Room:
        return self.counted, tuple(sorted(self.lanes))


class Bulkheads:
    """All that were asked for here, or told of by agents."""

    def __init__(self, times: Reports | None = None) -> None:
        self._times = times or Reports()
        self._bulkheads: dict[str, _Bulkhead] = {}
        self._agents: dict[str, _Agent] = {}
        self._changed: set[str] = set()
        self._untold: set[str] = set()

    def hear(self, agent: str, held: Iterable[Held], now: float) -> None:
        """Take an agent's report."""
        told = {one.key: one for one in held}
        for key, one in told.items():
            bulkhead = self._bulkheads.get(key)
            if bulkhead is not None:
                bulkhead.counted = max(0, bulkhead.counted - one.ended)
        if told or agent in self._agents:
            self._agents[agent] = _Agent(now, told)

    def take(self, key: str, lane: str, most: int, want: int, now: float) -> int:
        """Return how many of `want` tasks may go."""
        bulkhead = self._bulkheads.setdefault(key, _Bulkhead())
        granted = max(0, min(want, most - self.in_flight(key, now)))
        if granted:
            bulkhead.grant(granted, (lane,), now)
            self._changed.add(key)
        return granted

    def follow(self, key: str, told: Room, now: float, *, ours: bool) -> None:
        """Take what another owner has granted; of `ours` it is the latest that it knew."""
        counted, lanes = told
        bulkhead = self._bulkheads.setdefault(key, _Bulkhead())
        if counted > bulkhead.counted:
            bulkhead.grant(counted - bulkhead.counted, lanes, now)
        elif not ours:
            bulkhead.counted = counted

    def changes(self, owns: Callable[[str], bool]) -> Iterator[tuple[str, Room]]:
        """Yield what was granted or given back, but not by agents, each once: who stops goes on.

        Their reports all dispatchers hear. What is at rest has granted nothing. Then come, after
        `tell_all`, all others that are ours.
        """
        while self._changed:
            key = self._changed.pop()
            self._untold.discard(key)
            yield key, self._bulkheads[key].room if key in self._bulkheads else AT_REST
        while self._untold:
            key = self._untold.pop()
            if key in self._bulkheads and owns(key):
                yield key, self._bulkheads[key].room

    def tell_all(self) -> None:
        """Let all that are ours be told."""
        self._untold.update(self._bulkheads)

    def still_tell(self, owns: Callable[[str], bool]) -> None:
        """Tell also later what `tell_all` has left, as far as it is ours now."""
        self._changed.update(k for k in self._untold if k in self._bulkheads and owns(k))
        self._untold.clear()

    def free(self, key: str, number: int) -> None:
        """Take back what was granted and not needed."""
        bulkhead = self._bulkheads.get(key)
        if bulkhead is not None:
            bulkhead.counted = max(0, bulkhead.counted - number)
            self._changed.add(key)

    def in_flight(self, key: str, now: float) -> int:
        """Return how many are in flight, rather too many than too few."""
        bulkhead = self._bulkheads.get(key)
        counted = bulkhead.counted if bulkhead else 0
        return max(counted, self._measured(key, now))

    def doubtful(self, now: float) -> Iterator[tuple[str, frozenset[str]]]:
        """Yield the keys of which more is counted than measured, and the lanes to look at."""
        for key, bulkhead in self._bulkheads.items():
            if bulkhead.counted > self._measured(key, now) + bulkhead.lately(
                now, self._times.lately
            ):
                yield key, frozenset(bulkhead.lanes)

    def queues_empty(self, key: str, now: float) -> None:
        """Take that none of its tasks is in a queue."""
        bulkhead = self._bulkheads.get(key)
        if bulkhead is not None:
            there = self._measured(key, now) + bulkhead.lately(now, self._times.lately)
            bulkhead.counted = min(bulkhead.counted, there)
            self._changed.add(key)

    def clear(self) -> None:
        """Forget what was granted: others, who may know more, are about to tell it."""
        self._bulkheads.clear()
        self._changed.clear()
        self._untold.clear()

    def look(self, owns: Callable[[str], bool], now: float) -> None:
        """Forget agents that have not been heard for long, and bulkheads at rest.

        Of those that are ours it is told, so that nobody goes on counting what has ended.
        """
        self._agents = {
            name: agent
            for name, agent in self._agents.items()
            if now - agent.heard_at < self._times.heard
        }
        lately = self._times.lately
        resting = [
            key
            for key, bulkhead in self._bulkheads.items()
            if not bulkhead.counted and not bulkhead.lately(now, lately)
        ]
        for key in resting:
            del self._bulkheads[key]
        self._changed.update(key for key in resting if owns(key))

    def _measured(self, key: str, now: float) -> int:
        return sum(
            agent.held[key].here
            for agent in self._agents.values()
            if key in agent.held and now - agent.heard_at < self._times.heard
        )
