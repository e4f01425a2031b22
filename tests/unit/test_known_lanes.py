"""How many tasks a bundle carries."""

from hypothesis import given
from hypothesis import strategies as st

from maniple.amqp.batching import MAX_ITEMS
from maniple_dispatcher.egress.known_lanes import BUNDLE_SECONDS, Sizes

REPORTS = st.lists(st.tuples(st.integers(0, 500), st.floats(0, 100)), max_size=30)


def test_a_bundle_is_one_task_until_a_hundred_runs_are_known() -> None:
    sizes = Sizes()
    assert sizes.size("new") == 1
    assert sizes.learn("new", 99, 0.0001) == 1
    assert sizes.learn("new", 1, 0.0001) == MAX_ITEMS
    assert sizes.size("another") == 1


def test_a_lane_that_slows_down_is_believed_at_once_a_faster_one_gradually() -> None:
    sizes = Sizes()
    sizes.learn("lane", 1000, 0.001)
    assert sizes.learn("lane", 1, 0.05) == 1
    faster = [sizes.learn("lane", 100, 0.001) for _ in range(20)]
    assert faster == sorted(faster)
    assert faster[0] == 1 < faster[5] < faster[-1] <= 50


@given(REPORTS)
def test_a_bundle_runs_for_at_most_50_ms_unless_one_task_takes_longer(
    reports: list[tuple[int, float]],
) -> None:
    sizes = Sizes()
    for count, p99 in reports:
        size = sizes.learn("lane", count, p99)
        assert 1 <= size <= MAX_ITEMS
        assert size == 1 or size * sizes.lanes["lane"].p99 <= BUNDLE_SECONDS * 1.0001
        assert size == 1 or size * p99 <= BUNDLE_SECONDS * 1.0001 or count == 0


def test_a_report_without_runs_changes_nothing() -> None:
    sizes = Sizes()
    sizes.learn("lane", 200, 0.001)
    before = sizes.size("lane")
    assert sizes.learn("lane", 0, 60.0) == before
