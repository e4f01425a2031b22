"""Permits of limits that others own: who waits for which, and what becomes of them. Pure.

A task needs a permit; the owner of the limit gives it (`LeaseOwner`). One request per limit is
under way at a time, for all that wait for it; what comes meanwhile goes with the next one. When the
owner does not answer (it is slow, or it has died, and in two seconds another one owns the limit),
each dispatcher goes on with an equal part of what was left in a bucket, or with what it was granted
of its rate lately if that is more and, if the owner is not heard at all, with its share of what no
other was granted; whole tokens only, and it tells the owner, or the next one, what it let through.
What is above that nobody has decided: it is not refused, but told so. How long somebody waits for
an owner counts only from when there can be one: while the dispatcher hears at least itself.
"""

from collections.abc import Callable, Iterator

from maniple import timings
from maniple_dispatcher.limits.limit import ConcurrencyLimit, Limit, TokenBucketLimit
from maniple_dispatcher.limits.membership import Membership
from maniple_dispatcher.limits.messages import Ask, Grant
from maniple_dispatcher.limits.token_bucket import Taken, Terms
from maniple_dispatcher.limits.waiting_line import (
    RETRY_AFTER,
    Then,
    Waiter,
    WaitingLine,
    pass_by_credit,
    request_of,
)

MAX_LINES = 20_000


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
        self._lines: dict[str, WaitingLine] = {}
        self._busy: dict[str, WaitingLine] = {}
        self._number = 0

    def await_permit(self, limit: Limit, then: Then, now: float) -> bool:
        """Add a task to those that wait for a permit of another dispatcher."""
        line = self._line(limit)
        if line.silent and line.asked_of == self._peers.owner(limit.key):
            self._accrue(line, now)
            pass_by_credit(line, then)
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

    def _could_ask(self, line: WaitingLine) -> bool:
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
            yield request_of(line, to or "", now)

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

    def _in_time(self, line: WaitingLine, grant: Grant, now: float) -> None:
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

    def _is_over(self, line: WaitingLine, now: float) -> bool:
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
        line.forget_told()
        return told

    def _go_on(self, line: WaitingLine, now: float) -> None:
        """Tell those whom the owner does not answer, by the rate that there was last."""
        self._accrue(line, now)
        limit = line.limit
        if isinstance(limit, TokenBucketLimit) and not line.silent:
            line.credit = max(line.credit, self._part(line, limit.terms, now))
            line.alive_at = max(line.alive_at, line.asked_at)
            line.silent = True
        for one in line.unanswered():
            pass_by_credit(line, one.then)

    def _part(self, line: WaitingLine, terms: Terms, now: float) -> int:
        """Return what is ours of the tokens that were left, the owner's own part being left to it.

        It may be alive, and not know what we use.
        """
        if not self._peers.is_counted(self._peers.me):
            return 0  # we have not been told everything yet
        left = self._level(line.limit.key, terms, now) - line.used
        return int(max(0.0, left) / len(self._peers) + 1e-9)

    def _accrue(self, line: WaitingLine, now: float) -> None:
        limit = line.limit
        if isinstance(limit, TokenBucketLimit) and now - line.alive_at <= self._times.alive:
            line.credit += self._share(line, limit.terms, now) * (now - line.credited_at)
        line.credited_at = now

    def _share(self, line: WaitingLine, terms: Terms, now: float) -> float:
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

    def _line(self, limit: Limit) -> WaitingLine:
        line = self._lines.get(limit.key)
        if line is None:
            if len(self._lines) >= MAX_LINES:
                self._lines = dict(self._busy)
            line = self._lines[limit.key] = WaitingLine(limit)
        line.limit = limit  # a new version of its policy may say otherwise
        self._busy[limit.key] = line
        return line
