"""What dispatchers write down of limits and breakers: read with suspicion, and merged. Pure.

Each dispatcher writes what it owns, and keeps what it wrote before for as long as that may matter:
who owns it now writes it too, and of two statements the later one counts.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeVar

from maniple_dispatcher.egress.lane_deadlines import is_lane
from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.messages import MOST

OLD = 86_400.0
"""Seconds after which a breaker that nobody has changed is forgotten: none is open for so long."""
IN_USE = 3600.0
"""Seconds after which a bulkhead that nobody has used is taken to have no tasks."""
LARGEST = 1e300
MOST_OF_A_KEY = 16_384  # characters of the name of a bucket or bulkhead
MOST_KEPT = 20_000
"""Of all dispatchers together, of each kind; one that owns the most writes some thousands."""
SLACK = 2.0
"""Seconds by which the times of two statements may differ that say the same."""
HALF = 0.5
"""Of a token, which are whole: two statements that differ by more do not say the same."""
OLDEST = 30 * 86_400.0  # seconds; a bucket that takes longer to fill is taken for full after that

_FIELDS = ("level", "rate", "capacity", "at")
Level = tuple[float, float, float, float]
"""Tokens, tokens per second, tokens at most, and the time of day at which this was so."""
Breaker = tuple[str, int, float]
"""State, epoch, and the time of day at which it was entered."""
Room = tuple[int, tuple[str, ...], float]
"""Tasks, the lanes that they went to, and the time of day at which it was in use.

Without any lane nobody knows where they went.
"""
T = TypeVar("T", Level, Breaker, Room)


@dataclass(frozen=True, slots=True)
class SnapshotNotes:
    """Levels by bucket and breakers by lane."""

    levels: Mapping[str, Level] = field(default_factory=dict)
    breakers: Mapping[str, Breaker] = field(default_factory=dict)
    at: float = 0.0
    """Time of day at which they were written; 0 if nobody can tell."""
    rooms: Mapping[str, Room] = field(default_factory=dict)
    """By bulkhead, about how many tasks it had lately."""

    def __bool__(self) -> bool:
        return bool(self.levels or self.breakers or self.rooms)

    def lasting(self, now: float) -> "SnapshotNotes":
        """Leave out what does not matter any more: what is full again, or long past."""
        levels = {key: one for key, one in self.levels.items() if _is_missing(one, now)}
        breakers = {lane: one for lane, one in self.breakers.items() if now - one[2] <= OLD}
        rooms = {key: one for key, one in self.rooms.items() if now - one[2] <= IN_USE}
        return SnapshotNotes(levels, breakers, self.at, rooms)

    def says_as(self, other: "SnapshotNotes") -> bool:
        """Whether another says the same, whenever that was written."""
        return (self.levels, self.breakers, self.rooms) == (
            other.levels,
            other.breakers,
            other.rooms,
        )


def read(value: bytes, now: float) -> SnapshotNotes:
    """Read notes; an entry that cannot be used is left out. Raises `ValueError`."""
    kept = json.loads(value)
    if not isinstance(kept, dict):
        raise ValueError("must be a JSON object")  # noqa: TRY004 - all that is unusable is one error
    levels = {key: _level(one, now) for key, one in _entries(kept.get("levels"))}
    breakers = {
        lane: _breaker(one, now) for lane, one in _entries(kept.get("breakers")) if is_lane(lane)
    }
    rooms = {key: _room(one, now) for key, one in _entries(kept.get("rooms"))}
    return SnapshotNotes(
        {key: level for key, level in levels.items() if level is not None},
        {lane: breaker for lane, breaker in breakers.items() if breaker is not None},
        min(now, _number(kept.get("at")) or 0.0),
        {key: room for key, room in rooms.items() if room is not None},
    )


def latest(notes: Iterable[SnapshotNotes]) -> SnapshotNotes:
    """Return of each bucket and lane what was said last, and of too many the first."""
    levels: dict[str, Level] = {}
    breakers: dict[str, Breaker] = {}
    rooms: dict[str, Room] = {}
    for one in notes:
        for key, room in one.rooms.items():
            _keep(rooms, key, room, lambda room: (room[2], room[0]))
        for key, level in one.levels.items():
            _keep(levels, key, level, lambda level: (level[3], -level[0]))
        for lane, breaker in one.breakers.items():
            _keep(breakers, lane, breaker, lambda breaker: breaker[1])
    return SnapshotNotes(levels, breakers, rooms=rooms)


def _keep(kept: dict[str, T], key: str, one: T, age: Callable[[T], Any]) -> None:
    known = kept.get(key)
    if len(kept) < MOST_KEPT if known is None else age(one) > age(known):
        kept[key] = one


def with_ours(before: SnapshotNotes, ours: SnapshotNotes) -> SnapshotNotes:
    """Return what was written, with what we decide about in its place, unless that says the same.

    Of bulkheads that are at rest, or others', nothing is to be known any more.
    """
    levels, breakers = dict(before.levels), dict(before.breakers)
    for key, level in ours.levels.items():
        if key not in levels or not _is_same_level(levels[key], level):
            levels[key] = level
    for lane, breaker in ours.breakers.items():
        if lane not in breakers or not _is_same_breaker(breakers[lane], breaker):
            breakers[lane] = breaker
    return SnapshotNotes(levels, breakers, rooms=ours.rooms)


def share(level: Level, now: float) -> float:
    """Return how full a bucket is now; 1 and more is full."""
    tokens, rate, capacity, at = level
    return (tokens + (now - at) * rate) / capacity


def _is_same_level(one: Level, other: Level) -> bool:
    expected = one[0] + (other[3] - one[3]) * one[1]
    return one[1:3] == other[1:3] and abs(expected - other[0]) <= min(HALF, SLACK * one[1] + 1e-6)


def _is_same_breaker(one: Breaker, other: Breaker) -> bool:
    return one[:2] == other[:2] and abs(one[2] - other[2]) <= SLACK


def _entries(value: Any) -> Iterable[tuple[str, Any]]:
    entries = value.items() if isinstance(value, dict) else ()
    return (entry for entry in entries if len(entry[0]) <= MOST_OF_A_KEY)


def _level(value: Any, now: float) -> Level | None:
    # What a newer dispatcher adds at the end does no harm.
    if not isinstance(value, list) or len(value) < len(_FIELDS):
        return None
    level, rate, capacity, at = (_number(one) for one in value[: len(_FIELDS)])
    if level is None or rate is None or capacity is None or at is None or not rate > 0 < capacity:
        return None
    # None can owe more than it gets in the time after which it counts as full.
    level = min(max(level, -capacity - rate * OLDEST), capacity)
    return level, rate, capacity, min(now, at)


def _breaker(value: Any, now: float) -> Breaker | None:
    if not isinstance(value, list):
        return None
    match value[:3]:
        case [str(state), int(epoch), at] if state in set(BreakerState) and 0 < epoch <= MOST:
            since = _number(at)
            return None if since is None else (state, epoch, min(now, since))
    return None


def _room(value: Any, now: float) -> Room | None:
    if not isinstance(value, list):
        return None
    match value[:3]:
        case [int(number), [*lanes], at] if _is_count(number) and _are_lanes(lanes):
            since = _number(at)
            return None if since is None else (number, tuple(lanes), min(now, since))
    return None


def _is_count(number: int) -> bool:
    return number is not True and 0 < number <= MOST


def _are_lanes(values: list[Any]) -> bool:
    return all(isinstance(one, str) and is_lane(one) for one in values)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
        return None
    return float(value) if isfinite(value) else None


def _is_missing(level: Level, now: float) -> bool:
    return now - level[3] <= OLDEST and share(level, now) < 1.0
