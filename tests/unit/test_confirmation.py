"""What an agent may do, by the time since its last confirmed heartbeat."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from maniple_agent.domain.confirmation import Confirmation, Pace

seconds = st.floats(0, 1e6)


def test_an_agent_is_fenced_after_6_s_and_stops_what_is_exclusive_after_8() -> None:
    confirmation = Confirmation(100.0)
    told = [
        (confirmation.fenced(now), confirmation.exclusive_over(now), confirmation.given_up(now))
        for now in (106.0, 106.1, 108.1, 109.1)
    ]
    assert told == [
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, True),
    ]


@given(st.lists(seconds, min_size=1).flatmap(lambda sent: st.tuples(*[st.permutations(sent)] * 2)))
def test_the_order_in_which_confirms_are_heard_changes_nothing(
    orders: tuple[list[float], list[float]],
) -> None:
    one, other = Confirmation(0.0), Confirmation(0.0)
    for sent_at in orders[0]:
        one.confirm_heartbeat(sent_at)
    for sent_at in [*orders[1], *orders[1]]:
        other.confirm_heartbeat(sent_at)
    assert one == other


@given(st.lists(seconds), st.floats(0.1, 100))
def test_a_pace_is_never_exceeded(moments: list[float], period: float) -> None:
    pace = Pace(period)
    done = [now for now in sorted(moments) if pace.allows(now)]
    assert all(later - earlier >= period for earlier, later in itertools.pairwise(done))
    assert len(done) >= bool(moments)


def test_a_pace_that_waits_allows_nothing_before() -> None:
    pace = Pace(5.0)
    pace.hold_off(1.0, 100.0)
    assert [pace.allows(now) for now in (100.0, 100.9, 101.0, 105.9, 106.0)] == [
        *(False, False, True),
        *(False, True),
    ]
