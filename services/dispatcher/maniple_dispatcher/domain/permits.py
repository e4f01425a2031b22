"""Permits of limits that others own: who waits for which, and what becomes of them. Pure.

A task needs a permit; the owner of the limit gives it (`Owned`). One request per limit is under
way at a time, for all that wait for it; what comes meanwhile goes with the next one. When the owner
does not answer (it has died, and in two seconds another one owns the limit), each dispatcher goes
on with its share of a rate, whole tokens only, and tells the next owner what it let through.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from msgspec import Struct

from maniple.peers import Ask, Grant
from maniple_dispatcher.domain.buckets import Taken, Terms
from maniple_dispatcher.domain.peers import Peers

ANSWER_WITHIN = 0.3
GOES_ON_FOR = 2.0
RETRY_AFTER = 1.0
HELD_FOR = 1.5  # seconds that a task waits when nobody owns its limit: all have just started
MAX_LINES = 20_000
MAX_LATE = 16

Then = Callable[[bool, float], None]
"""Told whether a task passes, and after how many seconds; or, if not, when it may ask again."""


class Limit(Struct, frozen=True):
    """What a permit is asked of: a bucket, a bulkhead (`most`), or a breaker's probes."""

    key: str
    terms: Terms | None = None
    most: int = 0
    lane: str = ""


@dataclass(slots=True)
class _Line:
    """Those who wait for permits of one limit."""

    limit: Limit
    waiting: list[Then] = field(default_factory=list)
    since: float = 0.0
    asked: list[Then] = field(default_factory=list)
    asked_at: float = 0.0
    number: int = 0
    """Of the request that is under way; 0 if none is."""
    answered_at: float = float("-inf")
    credit: float = 0.0
    credited_at: float = 0.0
    used: int = 0
    freed: int = 0
    told: tuple[int, int] = (0, 0)
    """Of `used` and `freed`, what the request that is under way tells."""
    late: dict[int, tuple[int, int]] = field(default_factory=dict)
    """The same of requests that were not answered in time, by number."""

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.number or self.used or self.freed)

    def heard_of(self, told: tuple[int, int]) -> None:
        """Take that the owner knows of what was used and freed."""
        self.used -= told[0]
        self.freed -= told[1]


class Permits:
    """What this dispatcher asks of others."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._lines: dict[str, _Line] = {}
        self._busy: dict[str, _Line] = {}
        self._number = 0

    def wait(self, limit: Limit, then: Then, now: float) -> None:
        """Let a task wait for a permit that another dispatcher gives."""
        line = self._line(limit)
        if not line.waiting:
            line.since = now
        line.waiting.append(then)

    def free(self, limit: Limit) -> None:
        """Give back a permit that was not needed."""
        self._line(limit).freed += 1

    def asks(self, now: float) -> Iterator[Ask]:
        """Yield the requests that are due; those of limits without an owner wait."""
        for line in self._busy.values():
            to = self._peers.owner(line.limit.key)
            if line.number or not (line.waiting or line.freed) or to in (None, self._peers.me):
                continue
            line.asked, line.waiting = line.waiting, []
            line.asked_at = now
            self._number += 1
            line.number = self._number
            line.told = line.used, line.freed
            yield _ask(line, to or "")

    def answered(self, grant: Grant, now: float) -> None:
        """Take an answer; the permits of one that comes too late are given back."""
        line = self._lines.get(grant.key)
        if line is None or grant.to != self._peers.me:
            return
        if grant.number != line.number:
            line.heard_of(line.late.pop(grant.number, (0, 0)))
            line.freed += grant.granted
            return
        asked, line.asked = line.asked, []
        line.number = 0
        line.heard_of(line.told)
        line.answered_at = line.credited_at = now
        line.credit = 0.0
        taken = Taken(grant.granted, grant.again, grant.first, grant.step)
        for place, then in enumerate(asked):
            if place < taken.granted:
                then(True, taken.wait(place))
            else:
                then(False, taken.again)

    def look(self, now: float) -> list[tuple[Limit, list[Then]]]:
        """Deal with what was not answered; return those who wait for what is ours now."""
        ours = []
        for line in tuple(self._busy.values()):
            if self._peers.owns(line.limit.key):
                waiting = [*line.asked, *line.waiting]
                line.asked, line.waiting = [], []
                line.number = 0
                if waiting or line.used:
                    ours.append((line.limit, waiting))
            elif line.number and now - line.asked_at > ANSWER_WITHIN:
                self._go_on(line, now)
            elif line.waiting and not line.number and now - line.since > HELD_FOR:
                waiting, line.waiting = line.waiting, []
                for then in waiting:
                    then(False, RETRY_AFTER)
        self._busy = {key: line for key, line in self._busy.items() if not line.idle}
        return ours

    def used(self, key: str) -> int:
        """Return, and forget, what was let through unasked: for one who owns it now."""
        line = self._lines.get(key)
        if line is None:
            return 0
        used, line.used = line.used, 0
        return used

    def _go_on(self, line: _Line, now: float) -> None:
        """Let go on at the last rate what the owner does not answer."""
        terms = line.limit.terms
        if terms is not None and now - line.answered_at <= GOES_ON_FOR:
            share = terms.rate / max(1, len(self._peers))
            line.credit += share * (now - line.credited_at)
        line.credited_at = now
        for then in line.asked:
            passes = line.credit >= 1.0
            if passes:
                line.credit -= 1.0
                line.used += 1
            then(passes, 0.0 if passes else RETRY_AFTER)
        line.asked = []
        while len(line.late) >= MAX_LATE:
            del line.late[next(iter(line.late))]
        line.late[line.number] = line.told
        line.number = 0

    def _line(self, limit: Limit) -> _Line:
        line = self._lines.get(limit.key)
        if line is None:
            if len(self._lines) >= MAX_LINES:
                self._lines = dict(self._busy)
            line = self._lines[limit.key] = _Line(limit)
        line.limit = limit  # a new version of its policy may say otherwise
        self._busy[limit.key] = line
        return line


def _ask(line: _Line, to: str) -> Ask:
    terms = line.limit.terms
    return Ask(
        key=line.limit.key,
        to=to,
        number=line.number,
        want=len(line.asked),
        rate=terms.rate if terms else 0.0,
        capacity=terms.capacity if terms else 0.0,
        reserve=terms.reserve if terms else 0.0,
        most=line.limit.most,
        lane=line.limit.lane,
        used=line.used,
        freed=line.freed,
    )
