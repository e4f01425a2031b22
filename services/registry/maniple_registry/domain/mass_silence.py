"""Telling faults of the registry or of queues from those of agents. Pure: time is an argument."""

ENOUGH = 5
SHARE = 3


def threatens(silent: int, fleet: int) -> bool:
    """Tell whether so many agents are silent together that the fault may be ours.

    Five and a third of the fleet; all of it, if it is smaller.
    """
    return silent >= min(ENOUGH, fleet) and silent * SHARE >= fleet > 0


def starves_at_large(starving: int, fleet: int) -> bool:
    """Tell whether so many agents take nothing that their queues are more likely at fault."""
    return starving >= ENOUGH and starving * SHARE >= fleet


def proven(now: float, echoed: float, lasts: float) -> bool:
    """Tell whether an echo that came in time still proves that we hear; it does so for `lasts`."""
    return 0 <= now - echoed <= lasts
