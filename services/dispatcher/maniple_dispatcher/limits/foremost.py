"""Which few of very many come first, found by looking at some of them at a time. Pure.

So that whoever has a hundred thousand is not held up by them.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

AT_ONCE = 500
MOST_ANEW = 1_000  # of those that have changed, in one look
MOST_CHANGED = 100_000  # that are remembered as changed; a round finds others

Rank = Callable[[str], float | None]
"""Returns what one is ordered by, the lowest first; None if it does not count."""


class Foremost:
    """The first `most` by their rank, of those that have changed or that a round has found."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[str] = []
        self._known: set[str] = set()
        # In the order in which they changed: none waits behind those that change all the time.
        self._changed: dict[str, None] = {}
        self._round: list[str] = []
        self._left: set[str] = set()

    @property
    def behind(self) -> bool:
        """Whether some have changed that have not been looked at since."""
        return bool(self._changed)

    @property
    def others(self) -> int:
        """How many count and do not come among the first, as far as is known."""
        return len(self._left)

    def changed(self, key: str) -> None:
        """Record that one may have another rank."""
        if len(self._changed) < MOST_CHANGED:
            self._changed[key] = None

    def go_round(self, everything: Iterable[str], rank: Rank) -> bool:
        """Look at the next of `everything`; tells whether it found what was not known of."""
        if not self._round:
            self._round = list(everything)
            self._left.intersection_update(self._round)
        found = False
        for key in _taken(self._round):
            counts = key not in self._known and rank(key) is not None
            if not counts:
                self._left.discard(key)
            elif key not in self._left or len(self._kept) < self._most:
                self._changed[key] = None
                found = True
        return found

    def refresh_first(self, rank: Rank) -> Iterator[None]:
        """Find the first of those kept and some that have changed; pauses after every few."""
        some = list(islice(self._changed, MOST_ANEW))
        for key in some:
            del self._changed[key]
        looked = {*self._kept, *some}
        ranked: list[tuple[float, str]] = []
        for number, key in enumerate(looked):
            if (at := rank(key)) is not None:
                ranked.append((at, key))
            if number % AT_ONCE == AT_ONCE - 1:
                yield
        ranked.sort()
        keys = [key for _, key in ranked]
        self._left -= looked
        self._left.update(keys[self._most :])
        self._kept = keys[: self._most]
        self._known = set(self._kept)

    @property
    def first(self) -> list[str]:
        """The first, in order, as of the last look."""
        return self._kept


def _taken(queue: list[str]) -> list[str]:
    taken = queue[-AT_ONCE:]
    del queue[-AT_ONCE:]
    return taken
