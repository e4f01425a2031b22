"""Permits of limits that others own: who waits for which, and what becomes of them. Pure.

A task needs a permit; the owner of the limit gives it (`Owned`). One request per limit is under
way at a time, for all that wait for it; what comes meanwhile goes with the next one. When the owner
does not answer (it is slow, or it has died, and in two seconds another one owns the limit), each
dispatcher goes on with an equal part of what was left in a bucket, or with what it was granted of
its rate lately if that is more and, if the owner is not heard at all, with its share of what no
other was granted; whole tokens only, and it tells the owner, or the next one, what it let through.
What is above that nobody has decided: it is not refused, but told so. How long somebody waits for
an owner counts only from when there can be one: while the dispatcher hears at least itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import exp
from typing import NamedTuple, assert_never

from msgspec import Struct, structs

from maniple import timings
from maniple_dispatcher.limits.membership import Membership
from maniple_dispatcher.limits.messages import Ask, Grant
from maniple_dispatcher.limits.token_bucket import Taken, Terms

RETRY_AFTER = 1.0
MAX_LINES = 20_000
MAX_LATE = 16
FLOWED_IN = 1.0  # seconds of which "lately" is the mean
NO_FLOW = 1e-6  # permits a second
GRANTED_LATELY = 30.0  # seconds after which an owner has been told where what was granted went

Then = Callable[[bool | None, float], None]
"""Told whether a task passes, and after how many seconds; or, if not, when it may ask again.

None instead of False says that nobody decided, and that there is nothing (more) to go on with.
It must not raise: many are told one after another.
"""


class TokenBucketLimit(Struct, frozen=True):
    """A rate limit, of which a token is asked for."""

    key: str
    terms: Terms


class ConcurrencyLimit(Struct, frozen=True):
    """A bulkhead, in which room is asked for; it has `most` in all.

    `lane` is where the task goes; `lanes`, where others go that ask after it, in their order; `had`
    are lanes of tasks that have been granted something before.
    """

    key: str
    most: int
    lane: str = ""
    lanes: tuple[str, ...] = ()
    had: tuple[str, ...] = ()

    def goes_to(self, granted: int) -> tuple[str, ...]:
        """Return where tasks may be when so many of those that ask are granted something."""
        return (*(self.lane, *self.lanes)[:granted], *self.had)


class ProbeLimit(Struct, frozen=True):
    """The breaker of a lane, which lets a few tasks through to see whether they fail."""

    key: str
    lane: str


Limit = TokenBucketLimit | ConcurrencyLimit | ProbeLimit
"""What a permit is asked of."""


class Waiter(NamedTuple):
    """One that waits, and where its task goes."""

    then: Then
    lane: str


class _Flow:
    """How many permits a second somebody was granted lately."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._at = 0.0

    def granted(self, number: int, now: float) -> None:
        """Record a grant."""
        self._mean = self.rate(now) + number / FLOWED_IN
        self._at = now

    def rate(self, now: float) -> float:
        """Return it as of now: less the longer nothing was granted."""
        return self._mean * exp(-max(0.0, now - self._at) / FLOWED_IN)


@dataclass(slots=True)
class _Line:
    """Those who wait for permits of one limit."""

    limit: Limit
    waiting: list[Waiter] = field(default_factory=list)
    since: float = 0.0
    asked: list[Waiter] = field(default_factory=list)
    asked_at: float = 0.0
    number: int = 0
    """Of the request that is under way; 0 if none is."""
    asked_of: str | None = None
    silent: bool = False
    """Who was asked last did not answer in time; it goes on being asked, for nothing."""
    answered_at: float = float("-inf")
    alive_at: float = float("-inf")
    """When whoever was asked answered, in time or not."""
    credit: float = 0.0
    credited_at: float = 0.0
    used: int = 0
    freed: int = 0
    told: tuple[int, int] = (0, 0)
    """Of `used` and `freed`, what the request that is under way tells."""
    late: dict[int, tuple[str | None, tuple[int, int]]] = field(default_factory=dict)
    """Who was asked by requests that were not answered in time and what they tell, by number."""
    flow: _Flow = field(default_factory=_Flow)
    others: dict[str, _Flow] = field(default_factory=dict)
    had: dict[str, float] = field(default_factory=dict)
    """Of a bulkhead: when a task was last granted room that goes to a lane."""
    left: set[str] = field(default_factory=set)
    """Lanes that are not there, so that no task from here is in them: the owner is to know."""
    told_left: tuple[str, ...] = ()
    """Of these, what the request that is under way tells."""

    @property
    def wants(self) -> bool:
        """Whether there is something to ask or to tell, apart from what is under way."""
        return bool(self.waiting or self.used or self.freed or self.silent)

    @property
    def idle(self) -> bool:
        return not (self.number or self.wants)

    def goes_to(self, now: float) -> Limit:
        """Return the limit with the lanes of those who ask, and of those who were granted lately.

        A new owner may not have been told of these.
        """
        if not isinstance(self.limit, ConcurrencyLimit):
            return self.limit
        self.had = {lane: at for lane, at in self.had.items() if now - at <= GRANTED_LATELY}
        lane, *others = dict.fromkeys(one.lane for one in self.asked) or [""]
        return structs.replace(self.limit, lane=lane, lanes=tuple(others), had=tuple(self.had))

    def passes(self, one: Waiter, seconds: float, now: float) -> None:
        """Tell one that it is granted what it asked for."""
        if isinstance(self.limit, ConcurrencyLimit):
            self.had[one.lane] = now
            self.left.discard(one.lane)
        one.then(True, seconds)

    def flow_to(self, other: str, now: float) -> _Flow:
        """Return what another is granted; forget those who were granted nothing for long."""
        if other not in self.others:
            known = self.others.items()
            self.others = {peer: flow for peer, flow in known if flow.rate(now) > NO_FLOW}
        return self.others.setdefault(other, _Flow())

    def heard_of(self, told: tuple[int, int]) -> None:
        """Forget of what was used and freed what the owner has been told."""
        self.used -= told[0]
        self.freed -= told[1]

    def untold(self, owner: str | None) -> tuple[int, int]:
        """Return what of `used` and `freed` no request tells that this owner may still answer."""
        under_way = [told for asked_of, told in self.late.values() if asked_of == owner]
        return self.used - sum(u for u, _ in under_way), self.freed - sum(f for _, f in under_way)

    def lost_before(self, number: int) -> None:
        """Forget earlier requests: they come in their order, and are not answered any more."""
        self.late = {n: told for n, told in self.late.items() if n > number}

    def answered_late(self, grant: Grant, owner: str | None, now: float) -> None:
        """Give back what came too late, unless whoever granted it owns the limit no more.

        The next owner did not give it, and has to be told all that was used.
        """
        asked_of, told = self.late.pop(grant.number, (None, (0, 0)))
        self.lost_before(grant.number)
        if asked_of is not None and asked_of == owner:
            self.heard_of(told)
            self.freed += grant.granted
            self.alive_at = now

    def is_for_another(self, owner: str | None, now: float, asked_anew: float) -> bool:
        """Tell whether the request under way went to one that owns the limit no more."""
        stale = now - self.asked_at > asked_anew
        return bool(self.number) and owner != self.asked_of and stale

    def unanswered(self) -> list[Waiter]:
        """Record that the request under way is not answered in time; return who asked."""
        asked, self.asked = self.asked, []
        while len(self.late) >= MAX_LATE:
            del self.late[next(iter(self.late))]
        self.late[self.number] = self.asked_of, self.told
        self.number = 0
        return asked


class LeaseClient:
    """What this dispatcher asks of others; `due` if the last look found something to ask.

    `await_permit`, `return_permit` and `on_grant` tell whether there is something to ask now of
    that limit.
    """

    def __init__(
        self, peers: Membership, level: Callable[[str, Terms, float], float], times: timings.Peers
    ) -> None:
        """Begin; `level` gives what owners of a bucket, by its key, left in it."""
        self._times = times
        self.due = False
        self._peers = peers
        self._level = level
        self._lines: dict[str, _Line] = {}
        self._busy: dict[str, _Line] = {}
        self._number = 0

    def await_permit(self, limit: Limit, then: Then, now: float) -> bool:
        """Add a task to those that wait for a permit of another dispatcher."""
        line = self._line(limit)
        if line.silent and line.asked_of == self._peers.owner(limit.key):
            self._accrue(line, now)
            _pass_by_credit(line, then)
        else:
            if not line.waiting:
                line.since = now
            lane = limit.lane if isinstance(limit, ConcurrencyLimit) else ""
            line.waiting.append(Waiter(then, lane))
        return self._could_ask(line)

    def return_permit(self, limit: Limit) -> bool:
        """Give back a permit that was not needed."""
        known = self._lines.get(limit.key)
        # Whoever gives back may not know how much there is in all.
        line = self._line(limit if known is None else known.limit)
        line.freed += 1
        return self._could_ask(line)

    def left_lane(self, limit: ConcurrencyLimit) -> None:
        """Record that no task from here is in a lane; to be told with what is given back."""
        line = self._lines.get(limit.key)
        if line is not None:
            line.had.pop(limit.lane, None)
            line.left.add(limit.lane)

    def _could_ask(self, line: _Line) -> bool:
        """Tell whether a request is due; those of limits without an owner wait."""
        if line.number or not line.wants:
            return False
        return self._peers.owner(line.limit.key) not in (None, self._peers.me)

    def asks(self, now: float) -> Iterator[Ask]:
        """Yield the requests that are due."""
        for line in self._busy.values():
            if not self._could_ask(line):
                continue
            to = self._peers.owner(line.limit.key)
            line.asked, line.waiting = line.waiting, []
            line.silent = line.silent and line.asked_of == to
            line.asked_at, line.asked_of = now, to
            self._number += 1
            line.number = self._number
            line.told, line.told_left = line.untold(to), tuple(line.left)
            yield _ask(line, to or "", now)

    def on_grant(self, grant: Grant, now: float) -> bool:
        """Tell those who asked; the permits of an answer that comes too late are given back.

        Those to others tell what share of the limit they have.
        """
        line = self._lines.get(grant.key)
        if line is None:
            return False
        if grant.to != self._peers.me:
            line.flow_to(grant.to, now).granted(grant.granted, now)
        elif grant.number == line.number:
            self._in_time(line, grant, now)
        else:
            line.answered_late(grant, self._peers.owner(grant.key), now)
            self._busy[grant.key] = line
        return self._could_ask(line)

    def _in_time(self, line: _Line, grant: Grant, now: float) -> None:
        asked, line.asked = line.asked, []
        line.number, line.silent = 0, False
        line.heard_of(line.told)
        line.left.difference_update(line.told_left)
        line.lost_before(grant.number)
        line.answered_at = line.alive_at = line.credited_at = now
        line.credit = 0.0
        line.flow.granted(grant.granted, now)
        taken = Taken(grant.granted, grant.again, grant.first, grant.step, grant.undecided)
        for place, one in enumerate(asked):
            if place < taken.granted:
                line.passes(one, taken.wait(place), now)
            else:
                one.then(taken.refusal, taken.again)

    def reassign_unanswered(self, now: float) -> list[tuple[Limit, list[Waiter]]]:
        """Deal with what was not answered; return those who wait for what is ours now."""
        ours = list[tuple[Limit, list[Waiter]]]()
        for line in tuple(self._busy.values()):
            owner = self._peers.owner(line.limit.key)
            if owner == self._peers.me:
                waiting = [*line.asked, *line.waiting]
                line.asked, line.waiting, line.number, line.silent = [], [], 0, False
                if waiting or line.used or line.freed:
                    ours.append((line.goes_to(now), waiting))
            elif line.number and now - line.asked_at > self._times.answer:
                self._go_on(line, now)
            elif line.is_for_another(owner, now, self._times.asked_anew):
                line.waiting[:0] = line.unanswered()
                line.since = now
            elif line.waiting and not line.number and self._is_over(line, now):
                waiting, line.waiting = line.waiting, []
                for one in waiting:
                    one.then(None, RETRY_AFTER)
        self._busy = {key: line for key, line in self._busy.items() if not line.idle}
        self.due = any(self._could_ask(line) for line in self._busy.values())
        return ours

    def _is_over(self, line: _Line, now: float) -> bool:
        """Tell whether those who wait have waited for long enough; not if nobody could decide."""
        if self._peers.hears(now):
            return now - line.since > self._times.held
        line.since = now
        return self._peers.deaf_for(now) > self._times.deaf

    def settled(self, key: str) -> tuple[int, int]:
        """Return, and forget, what was used unasked and freed: for one who owns it now."""
        line = self._lines.get(key)
        if line is None:
            return 0, 0
        told = line.used, line.freed
        line.heard_of(told)
        return told

    def _go_on(self, line: _Line, now: float) -> None:
        """Tell those whom the owner does not answer, by the rate that there was last."""
        self._accrue(line, now)
        limit = line.limit
        if isinstance(limit, TokenBucketLimit) and not line.silent:
            line.credit = max(line.credit, self._part(line, limit.terms, now))
            line.alive_at = max(line.alive_at, line.asked_at)
            line.silent = True
        for one in line.unanswered():
            _pass_by_credit(line, one.then)

    def _part(self, line: _Line, terms: Terms, now: float) -> int:
        """Return what is ours of the tokens that were left, the owner's own part being left to it.

        It may be alive, and not know what we use.
        """
        if not self._peers.is_counted(self._peers.me):
            return 0  # we have not been told everything yet
        left = self._level(line.limit.key, terms, now) - line.used
        return int(max(0.0, left) / len(self._peers) + 1e-9)

    def _accrue(self, line: _Line, now: float) -> None:
        limit = line.limit
        if isinstance(limit, TokenBucketLimit) and now - line.alive_at <= self._times.alive:
            line.credit += self._share(line, limit.terms, now) * (now - line.credited_at)
        line.credited_at = now

    def _share(self, line: _Line, terms: Terms, now: float) -> float:
        """Return what is ours of a rate.

        What an owner lets through itself nobody hears of. While it is only slow it goes on with
        that, and is told what we use; when it is not heard, it is what the others were not granted.
        """
        equal = terms.rate / max(1, len(self._peers))
        at = line.answered_at
        ours = line.flow.rate(at)
        others = sum(flow.rate(at) for peer, flow in line.others.items() if peer != line.asked_of)
        if self._peers.unheard_for(line.asked_of, now) > self._times.unheard:
            ours += max(0.0, terms.rate - ours - others) / max(1, len(self._peers) - 1)
        return max(equal, ours * min(1.0, terms.rate / max(ours + others, 1e-9)))

    def _line(self, limit: Limit) -> _Line:
        line = self._lines.get(limit.key)
        if line is None:
            if len(self._lines) >= MAX_LINES:
                self._lines = dict(self._busy)
            line = self._lines[limit.key] = _Line(limit)
        line.limit = limit  # a new version of its policy may say otherwise
        self._busy[limit.key] = line
        return line


def _pass_by_credit(line: _Line, then: Then) -> None:
    if line.credit >= 1.0:
        line.credit -= 1.0
        line.used += 1
        then(True, 0.0)
    else:
        then(None, RETRY_AFTER)


def _ask(line: _Line, to: str, now: float) -> Ask:
    ask = Ask(
        key=line.limit.key,
        to=to,
        number=line.number,
        want=len(line.asked),
        had=(),
        used=line.told[0],
        freed=line.told[1],
        left=line.told_left,
    )
    match line.goes_to(now):
        case TokenBucketLimit(_, terms):
            return structs.replace(
                ask, rate=terms.rate, capacity=terms.capacity, reserve=terms.reserve
            )
        case ConcurrencyLimit(_, most, lane, lanes, had):
            return structs.replace(ask, most=most, lane=lane, lanes=lanes, had=had)
        case ProbeLimit(_, lane):
            return structs.replace(ask, lane=lane)
        case never:
            assert_never(never)
