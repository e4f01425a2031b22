"""What one ideal bucket lets pass of tasks that came when they came.

A limit of the whole fleet is compared with it, and not with so many in a second: a machine that
stands still for a while brings tasks in waves, and of these no limiter lets pass as many.
"""

from collections.abc import Iterable
from datetime import datetime

from maniple.messages import Result


def came(ends: Iterable[Result]) -> list[datetime]:
    """Return when each task reached a dispatcher, in order."""
    return sorted(end.dispatched_at for end in ends if end.dispatched_at)


def of_one_bucket(
    arrivals: Iterable[datetime], rate: float, capacity: float, *, level: float
) -> int:
    """Return how many pass a bucket that has a `level` at the first of them."""
    passed, before = 0, None
    for moment in arrivals:
        if before is not None:
            level = min(capacity, level + rate * (moment - before).total_seconds())
        before = moment
        if level >= 1:
            level -= 1
            passed += 1
    return passed
