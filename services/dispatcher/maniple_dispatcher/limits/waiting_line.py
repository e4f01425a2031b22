"""Those who wait for permits of one limit of another dispatcher, and what they do without. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp
from typing import NamedTuple, assert_never

from msgspec import structs

from maniple_dispatcher.limits.limit import (
    ConcurrencyLimit,
    Limit,
    ProbeLimit,
    TokenBucketLimit,
)
from maniple_dispatcher.limits.messages import MOST, Ask, Grant

RETRY_AFTER = 1.0
MAX_LATE = 16
FLOWED_IN = 1.0  # seconds of which "lately" is the mean
NO_FLOW = 1e-6  # permits a second
GRANTED_LATELY = 30.0  # seconds after which an owner has been told where what was granted went

Then = Callable[[bool | None, float], None]
"""Told whether a task passes, and after how many seconds; or, if not, when it may ask again.

None instead of False says that nobody decided, and that there is nothing (more) to go on with.
It must not raise: many are told one after another.
"""


class Waiter(NamedTuple):
    """One that waits, and where its task goes."""

    then: Then
    lane: str


class Flow:
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
class WaitingLine:
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
    flow: Flow = field(default_factory=Flow)
    others: dict[str, Flow] = field(default_factory=dict)
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
        """Whether nothing is under way either."""
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

    def flow_to(self, other: str, now: float) -> Flow:
        """Return what another is granted; forget those who were granted nothing for long."""
        if other not in self.others:
            known = self.others.items()
            self.others = {peer: flow for peer, flow in known if flow.rate(now) > NO_FLOW}
        return self.others.setdefault(other, Flow())

    def heard_of(self, told: tuple[int, int]) -> None:
        """Forget of what was used and freed what the owner has been told."""
        self.used = max(0, self.used - told[0])
        self.freed = max(0, self.freed - told[1])

    def untold(self, owner: str | None) -> tuple[int, int]:
        """Return what of `used` and `freed` no request tells that this owner may still answer."""
        under_way = [told for asked_of, told in self.late.values() if asked_of == owner]
        used, freed = sum(u for u, _ in under_way), sum(f for _, f in under_way)
        return max(0, self.used - used), max(0, self.freed - freed)

    def forget_told(self) -> None:
        """Forget what requests told that may still be answered: it has been settled otherwise."""
        self.late = {number: (who, (0, 0)) for number, (who, _) in self.late.items()}

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


def pass_by_credit(line: WaitingLine, then: Then) -> None:
    """Tell one whether it passes by what the limit's line has of credit; else nobody decided."""
    if line.credit >= 1.0:
        line.credit -= 1.0
        line.used += 1
        then(True, 0.0)
    else:
        then(None, RETRY_AFTER)


def request_of(line: WaitingLine, to: str, now: float) -> Ask:
    """Return the request that is under way now, to the limit's owner."""
    ask = Ask(
        key=line.limit.key,
        to=to,
        number=line.number,
        want=len(line.asked),
        had=(),
        used=min(line.told[0], MOST),
        freed=min(line.told[1], MOST),
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
