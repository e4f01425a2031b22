"""Who has tasks of bulkheads, as each has told last: agents, and dispatchers. Pure."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeVar

Who = TypeVar("Who", bound=Hashable)


class Holders(Generic[Who]):
    """The latest word of each counts, until another, or until it is known to be over.

    Who says nothing for so long (`silence`, seconds in which it could have been heard) has nothing
    any more: what it had the broker has given to others by then.
    """

    def __init__(self, silence: float) -> None:
        """Begin with nobody."""
        self._silence = silence
        self._told: dict[Who, tuple[float, Mapping[str, int]]] = {}
        self._sums: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Who]:
        return iter(tuple(self._told))

    def update_holder(self, who: Who, has: Mapping[str, int], now: float) -> None:
        """Record how many of each bulkhead one has, and that it has none of others."""
        self.forget_holder(who)
        if has:
            self._told[who] = now, has
            self._sums.update(has)

    def count(self, key: str) -> int:
        """Return how many of a bulkhead all have together."""
        return self._sums[key]

    def forget_holder(self, who: Who) -> None:
        """Forget what one has."""
        _, had = self._told.pop(who, (0.0, {}))
        for key, number in had.items():
            self._sums[key] -= number
            if not self._sums[key]:
                del self._sums[key]

    def excuse(self, seconds: float) -> None:
        """Record that nobody could be heard for so long."""
        self._told = {who: (at + seconds, has) for who, (at, has) in self._told.items()}

    def forget_silent(self, now: float) -> None:
        """Forget who has been silent for too long."""
        for who in [one for one, (at, _) in self._told.items() if now - at > self._silence]:
            self.forget_holder(who)
