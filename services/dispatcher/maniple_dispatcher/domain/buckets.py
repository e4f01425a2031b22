"""Token buckets, as their owner keeps them and as others follow them. Pure.

A bucket that is not known is full. A change of its rate or capacity keeps what is in it, as far as
it has room for that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec import Struct

from maniple.peers import Level

MAX_BUCKETS = 100_000
MAX_KEPT = 1_000


class Terms(Struct, frozen=True):
    """What a bucket is like: tokens per second, tokens at most, seconds to take in advance."""

    rate: float
    capacity: float
    reserve: float = 0.0

    @property
    def refill(self) -> float:
        """Seconds from empty to full."""
        return self.capacity / self.rate


class Taken(Struct, frozen=True):
    """What a limit gives: the first `granted` may pass, the others may ask `again` (seconds).

    With tokens taken in advance the n-th (from 0) of them waits for `first + n * step` seconds, if
    that is above 0.
    """

    granted: int
    again: float = 0.0
    first: float = 0.0
    step: float = 0.0

    def wait(self, place: int) -> float:
        """Return the seconds that the one at this place waits."""
        return max(0.0, self.first + place * self.step)


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float
    terms: Terms


class Buckets:
    """Buckets by key; at most `MAX_BUCKETS`, of which the fullest are forgotten first."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._changed: set[str] = set()
        self.version = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, terms: Terms, want: int, now: float) -> Taken:
        """Take up to `want` whole tokens."""
        bucket = self._filled(key, terms, now)
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

    def spend(self, key: str, terms: Terms, tokens: float, now: float) -> None:
        """Take what was let through unasked, so that tokens may be owed; below 0 gives back."""
        bucket = self._filled(key, terms, now)
        bucket.level = min(terms.capacity, max(-terms.capacity, bucket.level - tokens))
        self._note(key)

    def follow(self, key: str, told: Level, now: float, *, ours: bool = False) -> None:
        """Take what another owner says is in a bucket now; of `ours` it is the latest it knew."""
        level, rate, capacity = told
        known = self._buckets.get(key)
        if known is not None and ours:
            level = min(level, _level(known, known.terms, now))
        if rate > 0:
            self._buckets[key] = _Bucket(level, now, Terms(rate, capacity))

    def changes(self, now: float) -> Iterator[tuple[str, Level]]:
        """Yield what has changed, with what is in it now, each once: who stops goes on there."""
        while self._changed:
            key = self._changed.pop()
            bucket = self._buckets.get(key)
            if bucket is not None:
                level = _level(bucket, bucket.terms, now)
                yield key, (level, bucket.terms.rate, bucket.terms.capacity)

    def tell_all(self, now: float) -> None:
        """Let all that are not full count as changed."""
        for key, bucket in self._buckets.items():
            if _level(bucket, bucket.terms, now) < bucket.terms.capacity:
                self._changed.add(key)

    def tell_nothing(self) -> None:
        """Let nothing count as changed."""
        self._changed.clear()

    def slow(
        self, longer: float, owns: Callable[[str], bool]
    ) -> Iterator[tuple[str, Level, float]]:
        """Yield our buckets that take longer (seconds) to fill, as of their last change, and that.

        Of more than `MAX_KEPT` the emptiest.
        """
        slow = [
            (key, b) for key, b in self._buckets.items() if b.terms.refill > longer and owns(key)
        ]
        slow.sort(key=lambda item: item[1].level / item[1].terms.capacity)
        for key, b in slow[:MAX_KEPT]:
            yield key, (b.level, b.terms.rate, b.terms.capacity), b.at

    def restore(self, key: str, kept: Level, age: float, now: float) -> None:
        """Take a level that was written down `age` seconds ago, unless something newer is known."""
        level, rate, capacity = kept
        if key not in self._buckets and rate > 0:
            self._buckets[key] = _Bucket(level, now - age, Terms(rate, capacity))

    def _filled(self, key: str, terms: Terms, now: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[key] = _Bucket(terms.capacity, now, terms)
            return bucket
        # By the terms of now: those that it was learned with may be none.
        bucket.level = _level(bucket, terms, now)
        bucket.at = max(bucket.at, now)
        bucket.terms = terms
        return bucket

    def _note(self, key: str) -> None:
        self._changed.add(key)
        self.version += 1

    def _make_room(self, now: float) -> None:
        if len(self._buckets) < MAX_BUCKETS:
            return
        missing = {
            key: b.terms.capacity - _level(b, b.terms, now) for key, b in self._buckets.items()
        }
        for key in sorted(missing, key=missing.__getitem__)[: MAX_BUCKETS // 10]:
            del self._buckets[key]


def _level(bucket: _Bucket, terms: Terms, now: float) -> float:
    return min(terms.capacity, bucket.level + max(0.0, now - bucket.at) * terms.rate)
