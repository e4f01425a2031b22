"""Notes as they are written: of each kind what there is room for. Pure.

Each kind has room of its own, so that many of one cost no other. Of a kind those come first that
matter most, and one that is too large costs no other either.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.snapshot_notes import Breaker, Level, Room, SnapshotNotes, share

BYTES: Mapping[str, int] = {"levels": 256 * 1024, "breakers": 96 * 1024, "rooms": 96 * 1024}
"""For each kind; Consul takes 512 KiB in all."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written of some notes."""

    notes: SnapshotNotes
    value: bytes
    left: Mapping[str, int]
    """Of each kind, how many there was no room for."""
    bare: int
    """How many bulkheads are there without their lanes."""


class _Page:
    """What is written of one kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.kept: dict[str, Any] = {}
        self.left = 0
        self._space = BYTES[kind]
        self._lines: list[bytes] = []

    def add_note(self, key: str, *ways: Any) -> None:
        """Write one, in the first of these ways that there is space for."""
        for value in ways:
            if (line := _line(key, value)) and len(line) < self._space:
                self._space -= len(line) + 1  # and a comma
                self._lines.append(line)
                self.kept[key] = value
                return
        self.left += 1

    def encode_page(self) -> bytes:
        return b'"%b":{%b}' % (self.kind.encode(), b",".join(self._lines))


def write(notes: SnapshotNotes, now: float) -> Written:
    """Write open breakers, then the latest of the others; the emptiest buckets; the largest rooms.

    A room that is too large is written without its lanes.
    """
    levels, breakers, rooms = _Page("levels"), _Page("breakers"), _Page("rooms")
    for key, level in _by_share(notes.levels, now):
        levels.add_note(key, level)
    for lane, breaker in _by_state(notes.breakers):
        breakers.add_note(lane, breaker)
    for key, room in sorted(notes.rooms.items(), key=lambda one: -one[1][0]):
        rooms.add_note(key, room, (room[0], (), room[2]))
    pages = (levels, breakers, rooms) if notes.rooms else (levels, breakers)
    head = b'"at":' + msgspec.json.encode(now)
    value = b"{%b}" % b",".join([head, *(page.encode_page() for page in pages)])
    return Written(
        SnapshotNotes(levels.kept, breakers.kept, now, rooms.kept),
        value,
        {page.kind: page.left for page in pages if page.left},
        sum(not room[1] and bool(notes.rooms[key][1]) for key, room in rooms.kept.items()),
    )


def _by_share(levels: Mapping[str, Level], now: float) -> Iterable[tuple[str, Level]]:
    return sorted(levels.items(), key=lambda one: share(one[1], now))


def _by_state(breakers: Mapping[str, Breaker]) -> Iterable[tuple[str, Breaker]]:
    return sorted(breakers.items(), key=lambda one: (one[1][0] == BreakerState.CLOSED, -one[1][2]))


def _line(key: str, value: Level | Breaker | Room) -> bytes | None:
    try:
        return msgspec.json.encode(key) + b":" + msgspec.json.encode(value)
    except UnicodeEncodeError:  # half a character cannot be written, and costs no other
        return None
