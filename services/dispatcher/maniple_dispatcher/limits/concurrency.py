"""How many tasks of a bulkhead are in flight, as its owner knows it. Pure.

What was granted takes room until it is known to have ended: agents report how many of its tasks
they have now, and how many have left it; who was granted room and did not need it gives it back.
What is not known is taken as it was known last, never for nothing: an agent that is silent has
what it had, until it has failed or left, or for as long as the broker may leave it what it had.

A report may be lost with its agent, and a grant with the dispatcher that got it; that room would
never be given back. So the owner looks wherever a task may be that no agent tells of: in queues,
and at what dispatchers say that they have on its way there. What cannot be anywhere at any look,
for longer than anybody may have it untold, has ended. Known weaknesses: such room stays lost while
a lane has a backlog of others' tasks, and so does as much of it as is granted within any 1.5 s.

A task whose agent died, or lost its connection, between its end (or its way back to a lane) and the
acknowledgement is there twice with one room, and gives it back twice. Known weakness: until the
bulkhead is at rest one more may go for each of these, but none while agents tell of as many as
there is room for.

The owner tells the other dispatchers what it has granted, so that whoever owns the bulkhead next
knows what may be in a queue. Known weakness: what it granted to itself in the few milliseconds
before it died.

What is only remembered from before all dispatchers died takes room too, but nobody who lives tells
of it: a bulkhead that is full by that is not known to be full. Known weakness: if there was no room
to write down its lanes it is looked for only where new tasks go, for as long as in a blank queue.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from maniple.timings import Reports
from maniple_dispatcher.limits.bulkhead_room import MAX_LANES, Bulkhead
from maniple_dispatcher.limits.holders import Holders
from maniple_dispatcher.limits.messages import Room

AT_REST: Room = (0, ())

Life = tuple[str, str]
"""An agent and its incarnation."""


@dataclass(frozen=True, slots=True)
class Held:
    """What an agent reports: tasks of a bulkhead that it has, and how many left it just now."""

    key: str
    here: int
    ended: int


@dataclass(frozen=True, slots=True)
class Doubt:
    """Of a bulkhead of which more was granted than is told of: how much, and where it may be."""

    key: str
    lanes: frozenset[str]
    number: int


class Bulkheads:
    """All that were asked for here, or told of by agents."""

    def __init__(self, times: Reports | None = None) -> None:
        self._times = times or Reports()
        self._bulkheads: dict[str, Bulkhead] = {}
        self._agents = Holders[Life](self._times.heard)
        self._dispatchers = Holders[str](self._times.heard)
        self._looked_at: float | None = None
        self._changed: set[str] = set()
        self._untold: set[str] = set()
        self._remembered: dict[str, Room] | None = {}
        self._began_alone = False
        self.version = 0
        """Rises whenever what is `lately_in_use` becomes another."""

    def record_load(self, life: Life, held: Iterable[Held], now: float) -> None:
        """Record an agent's report."""
        told = list(held)
        for one in told:
            if one.ended and (bulkhead := self._bulkheads.get(one.key)) is not None:
                bulkhead.release_slots(one.ended)
        self._agents.update_holder(life, {one.key: one.here for one in told if one.here}, now)

    def gone(self, agent: str, incarnation: str, *, itself: bool = True) -> None:
        """Forget what lives of an agent had: up to this one, or of all if it has none.

        With `itself` false it begins, and only those before it are over.
        """
        for life in self._agents:
            if life[0] != agent:
                continue
            if not incarnation or life[1] < incarnation or (itself and life[1] == incarnation):
                self._agents.forget_holder(life)

    def record_unqueued(self, dispatcher: str, tasks: Mapping[str, int], now: float) -> None:
        """Record how many tasks a dispatcher has that no queue has taken yet."""
        self._dispatchers.update_holder(dispatcher, {k: n for k, n in tasks.items() if n > 0}, now)

    def take_slots(self, key: str, most: int, want: int, now: float) -> int:
        """Return how many of `want` tasks may go; `sends` is to say where."""
        bulkhead = self._bulkheads.setdefault(key, Bulkhead())
        in_flight = self.in_flight(key)
        granted = max(0, min(want, most - in_flight))
        if granted:
            bulkhead.counted = in_flight
            bulkhead.grant(granted, now)
            self.version += bulkhead.note_most(now)
            self._changed.add(key)
        return granted

    def sends(self, key: str, lanes: Collection[str], who: str, now: float) -> None:
        """Record that a dispatcher may send what it was granted to these lanes."""
        if (bulkhead := self._bulkheads.get(key)) is not None:
            self.version += bulkhead.went_to(lanes, now)
            bulkhead.sends(lanes, who)

    def left_lanes(self, key: str, lanes: Iterable[str], who: str) -> None:
        """Record that there are no such lanes, and that a dispatcher sends nothing there."""
        if (bulkhead := self._bulkheads.get(key)) is not None:
            bulkhead.forget_lanes(lanes, who)

    def is_full(self, key: str, most: int) -> bool:
        """Whether it is known to be: not only by what is remembered."""
        return self.in_flight(key) - self.unsure(key) >= most

    def unsure(self, key: str) -> int:
        """Return of how many in flight nobody who lives has told."""
        bulkhead = self._bulkheads.get(key)
        if bulkhead is None:
            return 0
        # It may be that those untold are others: then these stay unsure for longer.
        bulkhead.unsure = max(0, min(bulkhead.unsure, self._untold_of(key, bulkhead)))
        return bulkhead.unsure

    # --- what outlives all dispatchers ---------------------------------------------------

    def lately_in_use(self, owns: Callable[[str], bool]) -> Iterator[tuple[str, Room]]:
        """Yield of those that are ours about how many they had lately, rather too many."""
        for key, bulkhead in self._bulkheads.items():
            if bulkhead.most and owns(key):
                yield key, (bulkhead.most, tuple(sorted(bulkhead.lanes)))

    def remember(self, rooms: Mapping[str, Room], now: float, age: float) -> None:
        """Keep what dispatchers before us have written down, for the case that nobody tells.

        It may come when we own them, with an `age` of some seconds. For as long as it takes until
        what is nowhere to be found has ended, there are at least as many; after that, agents and
        queues have shown what there is.
        """
        if self._remembered is not None:
            self._remembered = dict(rooms)
        elif self._began_alone and age < self._times.heard:
            for key, room in rooms.items():
                self._take_remembered(key, room, now)

    def recall(self, now: float, *, alone: bool) -> None:
        """Begin to own: with what is remembered, if we are `alone` and nobody has told anything."""
        remembered, self._remembered = self._remembered, None
        self._began_alone = alone
        for key, room in (remembered or {}).items() if alone else ():
            if key not in self._bulkheads:
                self._take_remembered(key, room, now)

    def _take_remembered(self, key: str, room: Room, now: float) -> None:
        self.follow_owner(key, room, now, ours=True, unsure=room[0])
        self._changed.add(key)

    def follow_owner(
        self, key: str, told: Room, now: float, *, ours: bool, unsure: int = 0
    ) -> None:
        """Record what another owner has granted; of `ours` it is the latest that it knew.

        Of that, so many are `unsure`.
        """
        bulkhead = self._bulkheads.setdefault(key, Bulkhead())
        bulkhead.learn_room(told, now, ours=ours, unsure=unsure)

    def changes(self, owns: Callable[[str], bool]) -> Iterator[tuple[str, Room]]:
        """Yield what was granted or given back, but not by agents, each once: who stops goes on.

        Their reports all dispatchers hear. What is at rest has granted nothing. Then come, after
        `mark_all_changed`, all others that are ours.
        """
        while self._changed:
            key = self._changed.pop()
            self._untold.discard(key)
            yield key, self._bulkheads[key].room if key in self._bulkheads else AT_REST
        while self._untold:
            key = self._untold.pop()
            if key in self._bulkheads and owns(key):
                yield key, self._bulkheads[key].room

    def mark_all_changed(self) -> None:
        """Count all as changed: those that are ours are told."""
        self._untold.update(self._bulkheads)

    def keep_untold(self, owns: Callable[[str], bool]) -> None:
        """Keep what `mark_all_changed` has left to be told, as far as it is ours now."""
        self._changed.update(k for k in self._untold if k in self._bulkheads and owns(k))
        self._untold.clear()

    def disown_all(self) -> None:
        """Discard what is to be told: others may own what was ours, and know more of it."""
        self._changed.clear()
        self._untold.clear()
        self._doubt_anew()

    def free_slots(self, key: str, number: int) -> None:
        """Free what was granted and not needed."""
        bulkhead = self._bulkheads.get(key)
        if bulkhead is not None:
            bulkhead.release_slots(number)
            self._changed.add(key)

    def in_flight(self, key: str) -> int:
        """Return how many are in flight, rather too many than too few."""
        bulkhead = self._bulkheads.get(key)
        return max(bulkhead.counted if bulkhead else 0, self._agents.count(key))

    # --- what is told of nowhere ---------------------------------------------------------

    def doubtful(self, now: float) -> Iterator[Doubt]:
        """Yield of which bulkheads more was granted than is told of.

        What was granted just now is not in doubt: nor need one look where nothing else went.
        """
        lately = self._times.lately
        for key, bulkhead in self._bulkheads.items():
            number = self._untold_of(key, bulkhead)
            if number <= 0:
                bulkhead.missing = None
            elif number > bulkhead.lately(now, lately):
                lanes = bulkhead.lanes_before(now - lately)
                if len(lanes) < MAX_LANES:
                    yield Doubt(key, lanes, number)

    def looked(self, key: str, ready: int, now: float, *, blank: bool = False) -> None:
        """Record how many tasks may wait in the queues where those of a bulkhead may be.

        A queue that is `blank` (nor has it readers) may be one that does not answer.
        """
        bulkhead = self._bulkheads.get(key)
        if bulkhead is None:
            return
        untold = self._untold_of(key, bulkhead) - ready
        number = untold - bulkhead.lately(now, self._times.lately)
        blank = blank or (bulkhead.astray and self.unsure(key) > 0)
        if untold <= 0:
            bulkhead.missing = None
        elif number <= 0:
            pass  # there may be some: what was granted just now may be untold as well
        elif bulkhead.miss_tasks(number, now, self._times.heard, blank=blank):
            self._changed.add(key)

    def forget_stale(self, owns: Callable[[str], bool], now: float, *, hears: bool = True) -> None:
        """Forget agents that have not been heard for long, and bulkheads at rest.

        Of those that are ours it is told, so that nobody goes on counting what has ended. While we
        hear not even ourselves (`hears`) nobody is silent.
        """
        if not hears and self._looked_at is not None:
            self._agents.excuse(now - self._looked_at)
            self._dispatchers.excuse(now - self._looked_at)
            self._doubt_anew()
        self._looked_at = now
        self._agents.forget_silent(now)
        self._dispatchers.forget_silent(now)
        lately = self._times.lately
        resting = [
            key
            for key, bulkhead in self._bulkheads.items()
            if not bulkhead.counted and not bulkhead.lately(now, lately)
        ]
        for key, bulkhead in self._bulkheads.items():
            self.version += bulkhead.note_most(now)
            if bulkhead.unsure:
                self.unsure(key)  # what was told of once is sure
        for key in resting:
            self.version += bool(self._bulkheads[key].most)
            del self._bulkheads[key]
        self._changed.update(key for key in resting if owns(key))

    def _doubt_anew(self) -> None:
        for bulkhead in self._bulkheads.values():
            bulkhead.missing = None

    def _untold_of(self, key: str, bulkhead: Bulkhead) -> int:
        """Return how many tasks were granted of which neither agents nor dispatchers tell."""
        return bulkhead.counted - self._agents.count(key) - self._dispatchers.count(key)
