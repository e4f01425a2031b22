"""Token buckets, as their owner keeps them and as others follow them. Pure.

A bucket that is not known is full. A change of its rate or capacity keeps what is in it, as far as
it has room for that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from msgspec import Struct

from maniple.timings import Peers
from maniple_dispatcher.limits.foremost import Foremost
from maniple_dispatcher.limits.messages import Level
from maniple_policies.kinds.rate_limit import FASTEST, LONGEST_SHAPED, MOST_TOKENS, SLOWEST

MAX_BUCKETS = 100_000
MAX_KEPT = 3_500  # of which more have hardly room in a dispatcher's notes
SLOW = 5.0  # seconds to fill: a bucket that takes longer is worth being written down


class Terms(Struct, frozen=True):
    """What a bucket is like: tokens per second, tokens at most, seconds to take in advance."""

    rate: float
    capacity: float
    reserve: float = 0.0

    @classmethod
    def as_told(cls, rate: float, capacity: float, reserve: float = 0.0) -> Self:
        """Return what another process says of a bucket, within what a policy may say."""
        return cls(
            min(max(rate, SLOWEST), FASTEST),
            min(max(capacity, 1.0), MOST_TOKENS),
            min(max(reserve, 0.0), LONGEST_SHAPED),
        )

    @property
    def refill(self) -> float:
        """Seconds from empty to full."""
        return self.capacity / self.rate


class Taken(Struct, frozen=True):
    """What a limit gives: the first `granted` may pass, the others may ask `again` (seconds).

    With tokens taken in advance the n-th (from 0) of them waits for `first + n * step` seconds, if
    that is above 0. The others are refused, or, if it is `undecided`, they are not: nobody knows.
    """

    granted: int
    again: float = 0.0
    first: float = 0.0
    step: float = 0.0
    undecided: bool = False

    @property
    def refusal(self) -> bool | None:
        """What the others are told: None if nobody knows whether they might pass."""
        return None if self.undecided else False

    def wait(self, place: int) -> float:
        """Return the seconds that the one at this place waits."""
        return max(0.0, self.first + place * self.step)


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float
    terms: Terms
    remembers: float
    """Seconds of which it is remembered what it had no room for."""
    first_hand: bool = False
    """Its level is what was decided here, and not only what another said."""
    spilled: float = 0.0
    spilled_at: float = float("-inf")
    most_owed: float = 0.0
    """Tokens that may be owed: those taken in advance, and those let through unasked."""

    def fill(self, terms: Terms, now: float) -> None:
        """Fill it until now by the terms of now: those of before may be none."""
        grown = self.level + max(0.0, now - self.at) * terms.rate
        self.most_owed = terms.capacity + terms.reserve * terms.rate
        level = max(-self.most_owed, min(terms.capacity, grown))
        over = grown - level
        if now - self.spilled_at > self.remembers:
            self.spilled = 0.0
        if over > 0:
            self.spilled = min(over + self.spilled, self.remembers * terms.rate)
            self.spilled_at = now
        self.level, self.at, self.terms = level, max(self.at, now), terms


class TokenBuckets:
    """Buckets by key; at most `MAX_BUCKETS`, of which the fullest are forgotten first."""

    def __init__(self, times: Peers | None = None) -> None:
        self._remember = (times or Peers()).spilled
        self._buckets: dict[str, _Bucket] = {}
        self._changed: set[str] = set()
        self._slow = Foremost(MAX_KEPT)
        self.version = 0
        """Rises whenever what is `slow` may have become another."""

    def __len__(self) -> int:
        return len(self._buckets)

    def take_tokens(self, key: str, terms: Terms, want: int, now: float) -> Taken:
        """Take up to `want` whole tokens."""
        bucket = self._bucket(key, terms, now)
        bucket.fill(terms, now)
        there = bucket.level + terms.reserve * terms.rate
        # A billionth of a token is the rounding of sums, not a token that is missing.
        granted = max(0, min(want, int(there + 1e-9)))
        before, bucket.level = bucket.level, bucket.level - granted
        if granted:
            self._note(key)
        again = max(0.0, 1.0 - (there - granted)) / terms.rate if granted < want else 0.0
        if not terms.reserve:
            return Taken(granted, again)
        return Taken(granted, again, (1.0 - before) / terms.rate, 1.0 / terms.rate)

    def level(self, key: str, terms: Terms, now: float) -> float:
        """Return what is in a bucket, as far as it is known here."""
        bucket = self._buckets.get(key)
        return terms.capacity if bucket is None else _level(bucket, terms, now)

    def spend(self, key: str, terms: Terms, tokens: float, now: float) -> None:
        """Charge what was let through unasked, so that tokens may be owed; below 0 gives back.

        It was let through before this was told. Meanwhile the bucket has filled without it, and
        what it had no room for is what was used.
        """
        bucket = self._bucket(key, terms, now)
        bucket.fill(terms, now)
        of_spilled = min(bucket.spilled, max(0.0, tokens))
        bucket.spilled -= of_spilled
        level = bucket.level - (tokens - of_spilled)
        bucket.level = min(terms.capacity, max(-bucket.most_owed, level))
        self._note(key)

    def follow_owner(self, key: str, told: Level, now: float, *, ours: bool = False) -> None:
        """Record what another owner says is in a bucket now; of `ours` it is the latest it knew."""
        level, rate, capacity = told
        known = self._buckets.get(key)
        if rate <= 0:
            return
        if known is not None and ours:
            known.fill(known.terms, now)
            known.level = min(level, known.level)
        else:
            terms = Terms.as_told(rate, capacity)
            self._add(key, _Bucket(min(level, terms.capacity), now, terms, self._remember), now)

    def changes(self, now: float) -> Iterator[tuple[str, Level]]:
        """Yield what has changed, with what is in it now, each once: who stops goes on there."""
        while self._changed:
            key = self._changed.pop()
            bucket = self._buckets.get(key)
            if bucket is not None:
                yield key, _told(bucket, now)

    def mark_all_changed(self, now: float, owns: Callable[[str], bool]) -> None:
        """Count those as changed that are not full and that were decided here.

        Of what others decided we know a little less than they: who owns such a bucket would lose
        tokens each time that it took our word.
        """
        for key, bucket in self._buckets.items():
            level = _level(bucket, bucket.terms, now)
            if level < bucket.terms.capacity and (bucket.first_hand or owns(key)):
                self._changed.add(key)

    def discard_changes(self) -> None:
        """Count nothing as changed."""
        self._changed.clear()

    # --- what is worth being written down --------------------------------------------------

    def look_round(self, owns: Callable[[str], bool], now: float) -> None:
        """Look for slow buckets that are ours by now, and were not asked for since."""
        self.version += self._slow.go_round(self._buckets, self._emptiness(owns, now))

    def find_slow(self, owns: Callable[[str], bool], now: float) -> Iterator[None]:
        """Find those that are `slow`; pauses after every few.

        Not all that have changed are looked at each time: while it is `behind` there are more.
        """
        return self._slow.refresh_first(self._emptiness(owns, now))

    def slow(self) -> Iterator[tuple[str, Level, float]]:
        """Yield our slow buckets that are not full, as of their last change, and that.

        Of more than `MAX_KEPT` the emptiest, as they were at the last `find_slow`.
        """
        for key in self._slow.first:
            if (b := self._buckets.get(key)) is not None:
                yield key, (b.level, b.terms.rate, b.terms.capacity), b.at

    @property
    def behind(self) -> bool:
        """Whether there is more that has changed."""
        return self._slow.behind

    @property
    def left(self) -> int:
        """How many slow buckets of ours there are besides, as far as is known."""
        return self._slow.others

    def _emptiness(self, owns: Callable[[str], bool], now: float) -> Callable[[str], float | None]:
        def rank(key: str) -> float | None:
            b = self._buckets.get(key)
            if b is None or b.terms.refill <= SLOW:
                return None
            share = _level(b, b.terms, now) / b.terms.capacity
            return share if share < 1.0 and owns(key) else None

        return rank

    def restore(self, key: str, kept: Level, age: float, now: float) -> None:
        """Restore a level written down `age` seconds ago, unless another told of it since.

        What was decided here before that took the bucket for full: it holds no more than this.
        """
        level, rate, capacity = kept
        known = self._buckets.get(key)
        if known is None and rate > 0:
            terms = Terms.as_told(rate, capacity)
            self._add(key, _Bucket(level, now - age, terms, self._remember), now)
        elif known is not None and known.first_hand:
            known.fill(known.terms, now)
            known.level = min(known.level, level + age * known.terms.rate)
            self._note(key)

    def _bucket(self, key: str, terms: Terms, now: float) -> _Bucket:
        """Return a bucket of which something is decided here; a new one is full."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = _Bucket(terms.capacity, now, terms, self._remember)
            self._add(key, bucket, now)
        bucket.first_hand = True
        return bucket

    def _note(self, key: str) -> None:
        self._changed.add(key)
        self._slow.changed(key)
        self.version += 1

    def _add(self, key: str, bucket: _Bucket, now: float) -> None:
        if key not in self._buckets and len(self._buckets) >= MAX_BUCKETS:
            self._make_room(now)
        self._buckets[key] = bucket

    def _make_room(self, now: float) -> None:
        missing = {
            key: b.terms.capacity - _level(b, b.terms, now) for key, b in self._buckets.items()
        }
        surplus = len(missing) - MAX_BUCKETS + max(1, MAX_BUCKETS // 10)
        for key in sorted(missing, key=missing.__getitem__)[:surplus]:
            del self._buckets[key]


def _level(bucket: _Bucket, terms: Terms, now: float) -> float:
    return min(terms.capacity, bucket.level + max(0.0, now - bucket.at) * terms.rate)


def _told(bucket: _Bucket, now: float) -> Level:
    return (_level(bucket, bucket.terms, now), bucket.terms.rate, bucket.terms.capacity)
