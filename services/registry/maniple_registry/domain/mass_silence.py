"""When what many agents seem to lack is more likely not theirs. Pure: time is an argument."""

ENOUGH = 5
SHARE = 3


def threatens(silent: int, fleet: int) -> bool:
    """Whether so many of so many agents are silent together that it may be us.

    Five and a third of the fleet; all of it, if it is smaller.
    """
    return silent >= min(ENOUGH, fleet) and silent * SHARE >= fleet > 0


def starves_at_large(starving: int, fleet: int) -> bool:
    """Whether so many of so many agents take nothing that it is more likely their queues."""
    return starving >= ENOUGH and starving * SHARE >= fleet


def proven(now: float, echoed: float, lasts: float) -> bool:
    """Whether an echo that came in time still proves that we hear, for it `lasts` so long."""
    return 0 <= now - echoed <= lasts
