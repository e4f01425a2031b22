"""Incarnations of an agent: which life began when, and which is the later one. Pure."""

from datetime import UTC, datetime
from typing import Final, NewType
from uuid import UUID

Incarnation = NewType("Incarnation", str)
"""One life of an agent: a UUIDv7 as text, so that a later life sorts after an earlier one."""

FAR: Final = 86_400.0
"""Seconds by which a life may have started in the future: clocks differ, and are set back."""
_LAST: Final = datetime.max.replace(tzinfo=UTC).timestamp()


def began(life: str) -> float | None:
    """Return the Unix second at which a life started by its host's clock, None if untold."""
    try:
        known = UUID(life)
    except ValueError:
        return None
    return (known.int >> 80) / 1000 if str(known) == life else None


def is_of_the_future(life: str, *times: float) -> bool:
    """Tell whether a life starts a day or more after all of these times, in Unix seconds.

    Without any, whether no clock can have shown its start. A life without a time is of the future
    if it sorts after all lives that have one: no life could follow it.
    """
    at = began(life)
    if at is None:
        return life > _NEVER
    return at > max(times, default=_LAST) + FAR


def order(life: str, at: float) -> tuple[bool, str]:
    """Return a key that sorts lives by their start, at a Unix second.

    A life of the future sorts before all others: its host's clock was ahead, and has been set right
    since, if a life is known that is not of the future.
    """
    by_clock = began(life)
    is_ahead = by_clock is not None and by_clock > at + FAR
    return bool(life) and not is_ahead, life


_NEVER: Final = str(UUID(int=int(_LAST * 1000) << 80))


def later_life(fresh: str, *ended: str) -> Incarnation:
    """Return `fresh`, or a life made from it that sorts after all lives that have ended.

    A host's clock may have been set back since. An id that is no UUID is not taken into account.
    """
    latest = max(ended)
    if fresh > latest:
        return Incarnation(fresh)
    try:
        next_millisecond = (UUID(latest).int >> 80) + 1
        rest = UUID(fresh).int & ((1 << 80) - 1)
        return Incarnation(str(UUID(int=next_millisecond << 80 | rest)))
    except ValueError:
        return Incarnation(fresh)
