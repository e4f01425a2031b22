"""What this dispatcher owns of limits and breakers, and what it knows of those of others. Pure."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import assert_never

from maniple.timings import Timings
from maniple_dispatcher.limits.breaker import Breaker, BreakerState, Ends
from maniple_dispatcher.limits.concurrency import Bulkheads
from maniple_dispatcher.limits.limit import ConcurrencyLimit, Limit, ProbeLimit, TokenBucketLimit
from maniple_dispatcher.limits.messages import Ask, BreakerNews
from maniple_dispatcher.limits.token_bucket import Taken, Terms, TokenBuckets
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec

BREAKER = "breaker\0"
FULL_AGAIN_AFTER = 1.0  # seconds after which a task may ask a full bulkhead again
MAX_BREAKERS = 10_000
_STATES = frozenset(one.value for one in BreakerState)


def probes_of(lane: str) -> ProbeLimit:
    """Return the limit of the probes of a lane's breaker."""
    return ProbeLimit(BREAKER + lane, lane)


def limit_asked(ask: Ask) -> Limit:
    """Return the limit that another dispatcher asks for."""
    if ask.rate > 0:
        return TokenBucketLimit(ask.key, Terms.as_told(ask.rate, ask.capacity, ask.reserve))
    if not ask.most:
        return ProbeLimit(ask.key, ask.lane)
    if ask.had is None:  # one of an older dispatcher, whose lanes are in no order
        return ConcurrencyLimit(ask.key, ask.most, ask.lane, had=ask.lanes)
    return ConcurrencyLimit(ask.key, ask.most, ask.lane, ask.lanes, ask.had)


@dataclass(frozen=True, slots=True)
class Change:
    """A lane's breaker has become something else."""

    lane: str
    state: BreakerState
    epoch: int


class LeaseOwner:
    """Buckets, bulkheads and breakers.

    `spec_of` says which policy a lane's breaker has, if any; `born` gives a number for a new one
    that rises all the time, at all dispatchers much alike. While the policies are not `known` yet,
    no breaker is without one: none is forgotten, and what is heard of them is kept until then.
    """

    def __init__(
        self,
        spec_of: Callable[[str], CircuitBreakerSpec | None],
        timings: Timings | None = None,
        *,
        born: Callable[[], int] = lambda: 0,
        known: Callable[[], bool] = lambda: True,
    ) -> None:
        times = timings or Timings()
        self._spec_of = spec_of
        self._known = known
        self._knew = known()
        self._kept_news: dict[str, tuple[BreakerNews, float]] = {}
        self._born = born
        self._latest = 0  # epoch that was heard or made here
        self._breakers: dict[str, Breaker] = {}
        self._news: set[str] = set()
        self._changes: list[Change] = []
        self._version = 0
        self.buckets = TokenBuckets(times.peers)
        self.bulkheads = Bulkheads(times.reports)

    @property
    def version(self) -> int:
        """Rises whenever something changes that is worth being written down."""
        return self.buckets.version + self.bulkheads.version + self._version

    def grant_permits(self, limit: Limit, want: int, now: float, *, who: str = "") -> Taken:
        """Give permits of a limit that is ours, to the dispatcher that asks."""
        if isinstance(limit, TokenBucketLimit):
            return self.buckets.take_tokens(limit.key, limit.terms, want, now)
        if isinstance(limit, ConcurrencyLimit):
            return self._take_room(limit, want, now, who)
        if isinstance(limit, ProbeLimit):
            return self._take_probes(limit, want, now)
        assert_never(limit)

    def _take_room(self, limit: ConcurrencyLimit, want: int, now: float, who: str) -> Taken:
        granted = self.bulkheads.take_slots(limit.key, limit.most, want, now)
        self.bulkheads.sends(limit.key, limit.goes_to(granted), who, now)
        if granted == want:
            return Taken(granted)
        undecided = not self.bulkheads.is_full(limit.key, limit.most)
        return Taken(granted, FULL_AGAIN_AFTER, undecided=undecided)

    def _take_probes(self, limit: ProbeLimit, want: int, now: float) -> Taken:
        lane = limit.key.removeprefix(BREAKER)
        spec = self._spec_of(lane)
        if spec is None:
            return Taken(0, FULL_AGAIN_AFTER) if self._may_be_shut(lane) else Taken(want)
        breaker = self._breaker(lane)
        if breaker.state is BreakerState.CLOSED:
            self._news.add(lane)  # who asks does not know
        return Taken(*breaker.probe(want, spec, now))

    def used(self, limit: Limit, number: int, now: float) -> None:
        """Charge what another let through while the limit had no owner."""
        if isinstance(limit, TokenBucketLimit) and number:
            self.buckets.spend(limit.key, limit.terms, number, now)

    def return_permits(self, limit: Limit, number: int, now: float) -> None:
        """Free permits that were not needed."""
        if isinstance(limit, TokenBucketLimit) and number:
            self.buckets.spend(limit.key, limit.terms, -number, now)
        elif isinstance(limit, ConcurrencyLimit) and number > 0:
            self.bulkheads.free_slots(limit.key, number)

    # --- breakers ------------------------------------------------------------------------

    def breaker(self, lane: str) -> tuple[BreakerState, float]:
        """Return the state of a lane's breaker, without changing it, and when it was entered."""
        known = self._breakers.get(lane)
        return (BreakerState.CLOSED, 0.0) if known is None else (known.state, known.since)

    def record_outcomes(self, lane: str, ends: Ends, now: float) -> bool:
        """Record how attempts of a lane ended whose breaker is ours; tells whether it changed."""
        spec = self._spec_of(lane)
        if spec is None or not (ends.succeeded or ends.failed):
            return False
        return self._noted(lane, self._breaker(lane).record_outcomes(ends, spec, now))

    def advance_breakers(self, owns: Callable[[str], bool], now: float) -> bool:
        """Advance the breakers that are ours to now; tells whether one has changed."""
        changed, known = False, self._known()
        if known and not self._knew:
            self._begin_to_know()
        for lane, breaker in list(self._breakers.items()):
            spec = self._spec_of(lane)
            if spec is None:
                if known:
                    del self._breakers[lane]  # its policy is gone, and with it what it held back
            elif owns(BREAKER + lane):
                changed |= self._noted(lane, breaker.advance_time(spec, now))
        return changed

    def follow_owners(self, news: Iterable[BreakerNews], now: float) -> None:
        """Follow what owners say of their breakers."""
        for one in news:
            if one.state not in _STATES:
                continue  # one of a newer dispatcher's: that must not cost what else it says
            spec = self._spec_of(one.lane)
            if spec is not None:
                self._breaker(one.lane).follow_owner(one, spec, now)
                self._heard(one.epoch)
            elif not self._known():
                self._keep_news(one, now)

    def mark_all_changed(self, now: float, owns: Callable[[str], bool]) -> None:
        """Count everything that is known here as changed, so that it is told."""
        self.buckets.mark_all_changed(now, owns)
        self.bulkheads.mark_all_changed()
        self._news.update(lane for lane, _ in self.breakers())

    def news(self, now: float) -> Iterator[BreakerNews]:
        """Yield how the breakers are that have changed, each once: who stops goes on there."""
        while self._news:
            lane = self._news.pop()
            spec = self._spec_of(lane)
            if spec is not None and lane in self._breakers:
                yield self._breakers[lane].news(lane, spec, now)

    def _begin_to_know(self) -> None:
        """Follow, and tell, what could not be without the policies."""
        self._knew = True
        kept, self._kept_news = self._kept_news, {}
        for one, at in kept.values():
            self.follow_owners((one,), at)
        self._news.update(lane for lane, _ in self.breakers())

    def _keep_news(self, news: BreakerNews, now: float) -> None:
        """Keep what was said of a breaker whose policy has not come yet."""
        before = self._kept_news.get(news.lane)
        if before is None and len(self._kept_news) >= MAX_BREAKERS:
            return
        if before is None or news.epoch >= before[0].epoch:
            self._kept_news[news.lane] = news, now

    def _may_be_shut(self, lane: str) -> bool:
        """Tell whether a lane without a policy has a breaker that is not closed: it may be to come.

        Who asks for a probe knows the policy, which we do not yet.
        """
        if self._known():
            return False
        kept = self._kept_news.get(lane)
        state: str = self.breaker(lane)[0] if kept is None else kept[0].state
        return state != BreakerState.CLOSED

    def _breaker(self, lane: str) -> Breaker:
        if lane not in self._breakers and len(self._breakers) >= MAX_BREAKERS:
            self._breakers = {
                k: b for k, b in self._breakers.items() if b.state is not BreakerState.CLOSED
            }
        return self._breakers.setdefault(lane, Breaker(born=max(self._born(), self._latest)))

    def changes(self) -> list[Change]:
        """Return the changes of our breakers since this was last asked for."""
        found, self._changes = self._changes, []
        return found

    def breakers(self) -> Iterator[tuple[str, Breaker]]:
        """Iterate over the breakers that have ever changed."""
        return ((lane, breaker) for lane, breaker in self._breakers.items() if breaker.epoch)

    def restore(self, lane: str, state: BreakerState, epoch: int, since: float) -> None:
        """Restore a breaker that was written down, unless something later is known."""
        breaker = self._breaker(lane)
        if epoch > breaker.epoch:
            breaker.state, breaker.epoch, breaker.since = state, epoch, since
            self._heard(epoch)

    def _heard(self, epoch: int) -> None:
        self._latest = max(self._latest, epoch)

    def _noted(self, lane: str, changed: bool) -> bool:  # noqa: FBT001 - passed through
        if changed:
            breaker = self._breakers[lane]
            self._version += 1
            self._heard(breaker.epoch)
            self._news.add(lane)
            self._changes.append(Change(lane, breaker.state, breaker.epoch))
        return changed
