"""Which tier of `maniple.delay` a task waits in."""

from maniple.topology import DELAY_TIERS


def delay_tier(seconds: float) -> float:
    """Return the longest tier that is not longer than `seconds` (at least the shortest)."""
    best = DELAY_TIERS[0]
    for tier in DELAY_TIERS:
        if tier <= seconds:
            best = tier
    return best


def other_tier(tier: float, most: float = DELAY_TIERS[-1]) -> float:
    """Return the next longer tier, or after the longest the one before it.

    After the longest tier up to `most`, the time that the task has, start again with the shortest:
    so all of them are tried.
    """
    place = DELAY_TIERS.index(tier)
    if place + 1 == len(DELAY_TIERS):
        return DELAY_TIERS[place - 1] if tier <= most else DELAY_TIERS[0]
    longer = DELAY_TIERS[place + 1]
    return longer if longer <= most or not place else DELAY_TIERS[0]
