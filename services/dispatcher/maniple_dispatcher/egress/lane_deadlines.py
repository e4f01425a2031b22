"""When tasks that wait in lanes are over, and which lanes are to be turned over for it. Pure.

An agent ends a task that is over when it takes it. Where there is no agent, or all are busy with
long tasks, a dispatcher turns the lane over: it takes what waits, ends what is over and puts the
rest back. That costs as much as the lane is long, so it is done only

- when a deadline has passed of something that this dispatcher has put there, or
- once by the dispatcher that owns the lane, when agents have been there since the last time, or a
  dispatcher has left: then nobody may know what is in there.

And only when two looks in a row have found messages and no consumer: agents that are about to come
back find their tasks where they were. Or three have found messages and consumers, of whom none has
taken any between them: fewer wait if one has, or agents have told of something that ended in that
lane (which says nothing of its suspects). A lane that moves is left to its agents. RabbitMQ shows
nothing at all of a queue that does not answer: such a lane is left alone, and looked at again.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from maniple.messages import CAPABILITY_PATTERN, VARIANT_PATTERN
from maniple.timings import Expiry
from maniple.topology import lane_queues, suspect_lane
from maniple_dispatcher.egress.deadlines import HOUR, NEVER, Deadlines
from maniple_dispatcher.limits.messages import Turn

MOST_LANES = 4096
MOST_OF_A_NAME = 255 - len(lane_queues("")[1].name)  # in the name of the queue of its suspects
MOST_DUE = 500
MOST_BLANK = 8
MOST_SLOW = 50  # looks at once, of those that nothing presses
MOST_READ = 10_000  # messages of a lane that is turned over though agents read it
REST = 4  # times as long as that took it is left alone then
LOOKS = 2
SOON = 6  # looks in which somebody is to begin, also where all dispatchers have just started

_CAPABILITY, _VARIANT = re.compile(CAPABILITY_PATTERN), re.compile(VARIANT_PATTERN)


@dataclass(slots=True, eq=False)
class Place:
    """One of the two queues of a lane, and what is known of it."""

    lane: str
    queue: str
    look_at: float = 0.0
    due: bool = False
    """A deadline has passed since it was last turned over."""
    passed: float = 0.0
    """When that was last seen (seconds, the cluster's time)."""
    stirred: bool = True
    """There may be something in it of which nobody knows the deadline."""
    forgotten: bool = True
    """The same, and agents have not put it there: a dispatcher that is gone may have."""
    read: bool = False
    """There were consumers at the last look, or at that for which it is turned over."""
    ready: int = 0
    """Messages that waited at the last look."""
    moved: bool = True
    """Since then something has ended in its lane."""
    idle: int = 0
    """Looks in a row that found messages, and nobody who takes them."""
    blank: bool = False
    """The last look found nothing and nobody where something is due: it may not answer."""
    turning: bool = False
    began: float = 0.0
    """When that was (seconds, the cluster's time)."""
    consumed: bool = False
    """Somebody has begun to consume it while it is turned over."""
    not_before: float = 0.0
    failures: int = 0

    @property
    def presses(self) -> bool:
        """Whether it is to be looked at before others."""
        return self.due or self.turning or self.idle > 0

    @property
    def is_suspects(self) -> bool:
        """Whether it is the queue of tasks that lost agents."""
        return self.queue == lane_queues(self.lane)[1].name

    @property
    def routing_key(self) -> str:
        """By what `maniple.lanes` routes to it."""
        return suspect_lane(self.lane) if self.is_suspects else self.lane


@dataclass(slots=True)
class _Lane:
    deadlines: Deadlines
    places: tuple[Place, Place]


class LaneDeadlines:
    """What a dispatcher knows of the lanes (time: monotonic, but for deadlines)."""

    def __init__(self, times: Expiry, owns: Callable[[str], bool], wall: float) -> None:
        """Begin at `wall`, the cluster's time in seconds; `owns` tells whether we own a lane."""
        self.times = times
        self.owns = owns
        self.wall = wall
        self._lanes: dict[str, _Lane] = {}
        self._places: dict[str, Place] = {}
        self.hours: dict[str, int] = {}
        """The hour that was noted last, by lane. What ends in it, and not within an hour from now,
        as most does, need not be noted again."""
        self._others = frozenset[str]()
        self._turns: dict[str, Turn] = {}
        self.told = False
        """Whether a registry has told of all agents, and so of their lanes."""

    @property
    def lanes(self) -> Iterable[str]:
        """Those that are known."""
        return self._lanes.keys()

    def note(self, lane: str, deadline: float) -> None:
        """Record that a task with this deadline (the cluster's time, seconds) is in a lane."""
        known = self._lanes.get(lane) or self._begin(lane)
        if known is not None:
            at = known.deadlines.add_deadline(deadline, self.wall)
            if deadline > self.wall + HOUR:
                self.hours[lane] = at

    def stir(self, lanes: Iterable[str]) -> None:
        """Record that others may put something into these lanes: agents, or who was here before."""
        for lane in tuple(lanes):
            known = self._lanes.get(lane) or self._begin(lane)
            for place in known.places if known is not None else ():
                if not place.stirred:
                    place.stirred = True
                    place.look_at = min(place.look_at, 0.0)

    def move(self, lane: str) -> None:
        """Record that a task of this lane has ended with an agent: it has taken another, or will.

        But no suspect, of which an agent has one at a time: those behind one of an hour would wait
        unseen. Known weakness: what has ended may have been a suspect.
        """
        known = self._lanes.get(lane)
        if known is not None:
            place, _ = known.places
            place.moved = True

    def knows(self, lane: str) -> bool:
        """Tell whether there may be a lane: who has been told of none must take it for any."""
        return lane in self._lanes or not self.told

    def learn_lane(self, lanes: Iterable[str]) -> None:
        """Record that there are these lanes."""
        for lane in lanes:
            if lane not in self._lanes:
                self._begin(lane)

    def _begin(self, lane: str) -> _Lane | None:
        # What is known exists in the broker, so outsiders cannot name more and more; still, lanes
        # beyond the bound are left to their agents.
        if len(self._lanes) >= MOST_LANES or not is_lane(lane):
            return None
        first, suspects = (Place(lane, queue.name) for queue in lane_queues(lane))
        self._places |= {place.queue: place for place in (first, suspects)}
        known = self._lanes[lane] = _Lane(Deadlines(), (first, suspects))
        return known

    def advance_time(self, wall: float, now: float, others: frozenset[str]) -> None:
        """Set the time; what a dispatcher knew that is not among the `others` any more is lost."""
        self.wall = wall
        if self._others - others:
            self.stir(self._lanes)
            for place in self._places.values():
                place.forgotten = True
        self._others = others
        for name, lane in self._lanes.items():
            if lane.deadlines.pass_until(wall):
                self.hours.pop(name, None)
                for place in lane.places:
                    if not place.due:
                        # What counts is what it does now.
                        place.ready, place.moved, place.idle = 0, False, 0
                    place.due, place.passed = True, wall
                    place.look_at = min(place.look_at, now)

    def to_look_at(self, now: float) -> list[Place]:
        """Return the queues to be looked at now, those first that wait the longest for it.

        But last, and not many, those that may not answer: that takes its time.
        """
        late = [
            place for lane in self._lanes.values() for place in lane.places if place.look_at <= now
        ]
        late.sort(key=lambda place: place.look_at)
        pressing = [place for place in late if place.presses and not place.blank]
        blank = [place for place in late if place.presses and place.blank]
        slow = [place for place in late if not place.presses]
        return pressing[:MOST_DUE] + slow[:MOST_SLOW] + blank[:MOST_BLANK]

    def see(self, place: Place, ready: int, consumers: int, now: float) -> bool:
        """Record a look at a queue; tell whether it is to be turned over now."""
        place.stirred = place.stirred or consumers > 0
        moved, place.moved = place.moved or ready < place.ready, False
        place.ready = ready
        if place.turning:
            self._turns[place.queue] = (place.began, False)
            place.consumed = place.consumed or (consumers > 0 and not place.read)
            place.look_at = now + self.times.look
            return False
        # Nothing and nobody may mean that the queue does not answer.
        place.due = place.due and (ready > 0 or not consumers)
        if place.read != (consumers > 0):
            place.read, place.idle = consumers > 0, 0
        waits = ready > 0 and not (place.read and moved)
        place.idle = place.idle + 1 if waits else 0
        place.blank = place.due and not (ready or consumers)
        is_owned = self.owns(place.lane)
        wanted = self._is_wanted(place, is_owned=is_owned)
        if waits and (wanted or (place.idle < SOON and not place.read)):
            place.look_at = now + self.times.look
        else:
            place.look_at = now + self.times.every if place.due or place.stirred else NEVER
        # The others hear of it when the owner has begun.
        looks = LOOKS + (not is_owned) + place.read
        return wanted and place.idle >= looks and now >= place.not_before

    @staticmethod
    def _is_wanted(place: Place, *, is_owned: bool) -> bool:
        if not place.read:
            return place.due or (place.stirred and is_owned)
        return place.ready <= MOST_READ and (place.due or (place.forgotten and is_owned))

    def on_news(self, turns: Mapping[str, Turn], now: float) -> None:
        """Record which queues another dispatcher turns over, or has: twice would do no harm."""
        for queue, (began, whole) in turns.items():
            place = self._places.get(queue)
            if place is None:
                continue
            if not whole:
                place.not_before = max(place.not_before, now + 3 * self.times.look)
            elif place.passed <= began:
                # What we knew of was confirmed, and so there, before the other began.
                place.due = False

    def take_turns(self) -> dict[str, Turn]:
        """Return which queues are turned over, or have been since this was last asked for."""
        turns, self._turns = self._turns, {}
        return turns

    def miss(self, place: Place, now: float) -> None:
        """Record that a queue could not be looked at."""
        place.idle = 0
        place.look_at = now + self.times.every

    def begin_turn(self, place: Place) -> None:
        """Record that a queue is turned over from now on; what happens meanwhile counts anew."""
        place.turning, place.began = True, self.wall
        self._turns[place.queue] = (place.began, False)
        place.due = place.stirred = place.forgotten = place.consumed = False
        place.idle = 0

    def end_turn(self, place: Place, now: float, seconds: float, *, whole: bool) -> None:
        """Record that this took so many seconds, and whether all that was there has been taken.

        A long lane is turned over half of the time at most, and less where agents read it.
        """
        place.turning, place.failures = False, 0
        self._turns[place.queue] = (place.began, whole)
        place.due = place.due or not whole
        place.not_before = now + seconds * (REST if place.read else 1)
        place.look_at = now + self.times.look if place.due or place.stirred else NEVER

    def fail(self, place: Place, now: float) -> None:
        """Record that the queue did not answer, or the connection was lost: again, ever later."""
        place.turning, place.due = False, True
        pause = self.times.every * 2.0 ** min(place.failures, 10)
        place.failures += 1
        place.not_before = place.look_at = now + min(pause, self.times.longest)


def is_lane(name: str) -> bool:
    """Tell whether a lane can be called so."""
    if len(name) > MOST_OF_A_NAME:
        return False
    capability, at, variant = name.partition("@")
    return bool(_CAPABILITY.match(capability)) and (not at or bool(_VARIANT.match(variant)))
