"""How much of a lane an agent holds."""

from hypothesis import given
from hypothesis import strategies as st

from maniple_agent.domain.prefetch import (
    MAX_PREFETCH,
    START_WITHIN,
    prefetch_for,
    worth_changing,
)
from maniple_agent.run_queue import LaneMeasure


def test_a_lane_of_unknown_run_times_holds_what_the_slots_can_start() -> None:
    assert [prefetch_for(slots, None, 1.0) for slots in (1, 16)] == [1, 16]


def test_a_lane_of_unknown_bundles_begins_as_if_they_were_large_and_grows() -> None:
    measure = LaneMeasure()
    slots = (1, 16, 128, 129, 256)
    assert [prefetch_for(n, None, measure.bundle) for n in slots] == [1, 1, 1, 2, 2]
    measure.bundled(1)
    assert prefetch_for(256, None, measure.bundle) == 256
    measure.bundled(101)
    assert measure.bundle == 31.0


def test_a_fast_lane_holds_what_starts_within_50_ms() -> None:
    assert prefetch_for(4, 0.005, 1.0) == 40
    assert prefetch_for(4, 0.005, 10.0) == 4
    assert prefetch_for(4, 10.0, 1.0) == 4


def test_a_lane_however_fast_holds_no_more_than_is_of_use_and_all_that_can_run() -> None:
    assert prefetch_for(100, 0.0001, 128.0) == 16
    assert prefetch_for(5_000, 0.0001, 128.0) == 40
    assert prefetch_for(5_000, 10.0, 128.0) == 40


@given(st.integers(1, 100_000), st.floats(1e-9, 1e6), st.floats(1, 128))
def test_at_least_one_bundle_and_never_too_many(
    capacity: int, seconds: float, bundle: float
) -> None:
    prefetch = prefetch_for(capacity, seconds, bundle)
    assert 1 <= prefetch <= MAX_PREFETCH
    rounds = max(1.0, START_WITHIN / seconds)
    assert (prefetch - 1) * bundle < capacity * rounds


def test_a_report_tells_what_ran_since_the_last_one() -> None:
    measure = LaneMeasure()
    for number in range(100):
        measure.ran(number / 1000, "succeeded")
    measure.ran(1.0, "failed")
    runs, mean, p99, finished = measure.make_report()
    assert (runs, finished) == (101, {"succeeded": 100, "failed": 1})
    assert 0.05 < mean < 0.07
    assert p99 == 0.099
    assert measure.make_report() == (0, 0.0, 0.0, {})
    assert measure.mean == mean


def test_only_a_change_by_half_or_double_is_worth_its_round_trips() -> None:
    assert worth_changing(10, 20)
    assert worth_changing(10, 5)
    assert not worth_changing(10, 19)
    assert not worth_changing(10, 6)
