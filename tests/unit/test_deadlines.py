"""Deadlines as a few numbers: none passes before its time, and none is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from maniple_dispatcher.egress.deadlines import HOUR, MINUTE, NEVER, Deadlines

WALL = 1_800_000_000.0  # of the cluster when a test begins
WEEK = 7 * 24 * HOUR


@given(st.lists(st.floats(-5, 2 * WEEK), max_size=400))
def test_the_deadlines_of_any_number_of_tasks_are_a_few_numbers(ttls: list[float]) -> None:
    deadlines = Deadlines()
    for ttl in ttls:
        deadlines.add_deadline(WALL + ttl, WALL)
    assert len(deadlines) <= MINUTE + 8 + MINUTE + 8 * 24 + 2


@given(st.lists(st.floats(0, 3 * HOUR), min_size=1, max_size=20))
def test_each_deadline_passes_once_known_exactly_within_a_second_and_never_before(
    ttls: list[float],
) -> None:
    """As when each time that something passes the lane is turned over, and so known better."""
    deadlines, left = Deadlines(), [WALL + ttl for ttl in ttls]
    for deadline in left:
        deadlines.add_deadline(deadline, WALL)
    now = WALL
    while left:
        assert deadlines.first < NEVER
        now = max(now, deadlines.first)
        assert deadlines.pass_until(now)
        ended, left = [d for d in left if d <= now], [d for d in left if d > now]
        assert all(now - deadline < 1 for deadline in ended)
        deadlines = Deadlines()
        for deadline in left:
            deadlines.add_deadline(deadline, now)
