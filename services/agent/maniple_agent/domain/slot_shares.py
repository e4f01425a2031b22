"""How many slots one of several may take, so that some are left for whoever comes next. Pure.

A handler is not interrupted: what a long one has got is gone for as long as it runs. So nobody
takes another slot who has `GREED` times as many as are free. One alone so gets seven eighths, a
second one seven eighths of the rest; what both want evens out as their tasks end. Who has none may
take the last one.
"""

from typing import Final

GREED: Final = 7
LEAST: Final = 4
"""Slots below which one is too much to leave."""


def may_take(own: int, free: int, capacity: int) -> bool:
    """Tell whether who has `own` of the slots may take one of those that are `free`."""
    if own == 0 or capacity < LEAST:
        return free > 0
    return free > 1 and own < GREED * free


def tight_from(whole: int) -> int:
    """Return how much of something is taken when `is_modest` may refuse somebody, at the least."""
    return GREED * whole // (GREED + 1)


def is_modest(own: int, spare: int) -> bool:
    """Tell whether who has `own` of what is taken in pieces of any size may have one more."""
    return own < GREED * spare


def in_a_row(own: int, free: int, capacity: int) -> int:
    """Return how many slots who has `own` may take one after the other, by `may_take`."""
    if free < 1 or capacity < LEAST:
        return max(0, free)
    even = (GREED * (free + 1) - own) // (GREED + 1)
    return max(own == 0, min(free - 1, even))


def most_of(capacity: int) -> int:
    """Return how many slots one that is alone may take."""
    return capacity if capacity < LEAST else capacity - max(1, capacity // (GREED + 1))
