"""Circuit breakers, one for each lane, as their owner runs them. Pure.

    closed --failures--> open --open_for--> half_open --probes succeed--> closed
                          ^-----------a probe fails-----------'

What agents report is all that a breaker goes by: attempts by how they ended, timeouts and lost
agents among the failures. A probe whose end is not heard within `open_for` is given out again.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from maniple_dispatcher.limits.messages import MOST, BreakerNews
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec


class BreakerState(StrEnum):
    """Where a breaker is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Ends:
    """How attempts of a lane ended; `failing` counts the failures after the last success."""

    succeeded: int = 0
    failed: int = 0
    failing: int = 0


@dataclass(slots=True)
class Breaker:
    """One breaker. Times are seconds of a steady clock; a higher epoch is a later change.

    Epochs begin at `born`. A policy that is deleted and made anew has a new breaker, of which some
    dispatchers may still keep the old one: what is born later has the higher epochs.
    """

    state: BreakerState = BreakerState.CLOSED
    epoch: int = 0
    since: float = 0.0
    failing: int = 0
    window: deque[tuple[float, int, int]] = field(default_factory=deque)
    given: int = 0
    given_at: float = 0.0
    passed: int = 0
    born: int = 0

    def record_outcomes(self, ends: Ends, spec: CircuitBreakerSpec, now: float) -> bool:
        """Record what agents report; tells whether the breaker has changed."""
        if self.state is BreakerState.HALF_OPEN:
            return self._judge_probes(ends, spec, now)
        if self.state is BreakerState.OPEN:  # what was under way when it opened
            return False
        self.failing = ends.failing if ends.succeeded else self.failing + ends.failed
        self.window.append((now, ends.succeeded, ends.failed))
        while self.window and now - self.window[0][0] > spec.window:
            self.window.popleft()
        return self._trips(spec) and self._become(BreakerState.OPEN, now)

    def advance_time(self, spec: CircuitBreakerSpec, now: float) -> bool:
        """Make an open breaker half open when it is time; tells whether it has changed."""
        if self.state is BreakerState.OPEN and now - self.since >= spec.open_for:
            return self._become(BreakerState.HALF_OPEN, now)
        return False

    def probe(self, want: int, spec: CircuitBreakerSpec, now: float) -> tuple[int, float]:
        """Return how many tasks may pass, and when others may ask again (seconds)."""
        if self.state is BreakerState.CLOSED:
            return want, 0.0
        if self.state is BreakerState.OPEN:
            return 0, self.remaining(spec, now)
        if self.given and now - self.given_at > spec.open_for:
            self.given = 0
        granted = max(0, min(want, spec.probes - self.given))
        if granted:
            self.given += granted
            self.given_at = now
        return granted, spec.open_for

    def remaining(self, spec: CircuitBreakerSpec, now: float) -> float:
        """Return the seconds until an open breaker lets probes through."""
        return (
            max(0.0, self.since + spec.open_for - now) if self.state is BreakerState.OPEN else 0.0
        )

    def news(self, lane: str, spec: CircuitBreakerSpec, now: float) -> BreakerNews:
        """Return how it is, as others are told."""
        return BreakerNews(
            lane=lane,
            state=self.state,
            epoch=self.epoch or self.born,
            remaining=self.remaining(spec, now),
        )

    def follow_owner(self, news: BreakerNews, spec: CircuitBreakerSpec, now: float) -> bool:
        """Follow an owner's word, unless a later one is known; tells whether it has changed."""
        if news.epoch < self.epoch:
            return False
        changed = (news.epoch, news.state) != (self.epoch, self.state)
        self.epoch = news.epoch
        self.state = BreakerState(news.state)
        if self.state is BreakerState.OPEN:
            self.since = now + min(news.remaining, spec.open_for) - spec.open_for
        return changed

    def _judge_probes(self, ends: Ends, spec: CircuitBreakerSpec, now: float) -> bool:
        if not self.given:  # what was under way before
            return False
        if ends.failed:
            return self._become(BreakerState.OPEN, now)
        self.passed += ends.succeeded
        return self.passed >= spec.probes and self._become(BreakerState.CLOSED, now)

    def _trips(self, spec: CircuitBreakerSpec) -> bool:
        if spec.consecutive is not None and self.failing >= spec.consecutive:
            return True
        if spec.ratio is None:
            return False
        failed = sum(entry[2] for entry in self.window)
        total = failed + sum(entry[1] for entry in self.window)
        return total >= spec.minimum and failed >= spec.ratio * total

    def _become(self, state: BreakerState, now: float) -> bool:
        self.state, self.since = state, now
        self.epoch = min(max(self.born, self.epoch) + 1, MOST)
        self.failing = self.given = self.passed = 0
        self.window.clear()
        return True
