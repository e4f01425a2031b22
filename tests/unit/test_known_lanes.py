"""How many tasks a bundle carries."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from maniple.amqp.batching import MAX_ITEMS
from maniple_agent.run_queue import LaneMeasure
from maniple_dispatcher.egress.known_lanes import BUNDLE_SECONDS, KNOWN_AFTER, Sizes
from maniple_dispatcher.handlers import DispatcherHandlers
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import LaneOutcomes, Outcomes, RunTimes

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
def test_a_bundle_runs_for_at_most_50_ms_on_average_unless_one_task_takes_longer(
    reports: list[tuple[int, float]],
) -> None:
    sizes = Sizes()
    for count, mean in reports:
        size = sizes.learn("lane", count, mean)
        assert 1 <= size <= MAX_ITEMS
        assert size == 1 or size * sizes.lanes["lane"].mean <= BUNDLE_SECONDS * 1.0001
        assert size == 1 or size * mean <= BUNDLE_SECONDS * 1.0001 or count == 0


@given(st.integers(2, 999), st.floats(0.06, 100))
def test_the_slower_the_few_slow_tasks_of_a_lane_the_fewer_bundles_have_one(
    others: int, slow: float
) -> None:
    measure = LaneMeasure()
    for seconds in (slow, *[0.0] * others):
        measure.ran(seconds, "succeeded")
    runs, mean, _, _ = measure.make_report()
    size = Sizes().learn("lane", max(runs, KNOWN_AFTER), mean)
    assert size == 1 or size / runs <= BUNDLE_SECONDS / slow * 1.0001


def test_a_process_that_waited_for_its_turn_now_and_then_makes_no_bundle_smaller() -> None:
    measure = LaneMeasure()
    for seconds in [0.02, *[0.00002] * 49] * 4:
        measure.ran(seconds, "succeeded")
    runs, mean, p99, _ = measure.make_report()
    assert p99 == 0.02
    assert Sizes().learn("lane", runs, mean) > 100


def test_a_report_without_runs_changes_nothing() -> None:
    sizes = Sizes()
    sizes.learn("lane", 200, 0.001)
    before = sizes.size("lane")
    assert sizes.learn("lane", 0, 60.0) == before


def test_a_dispatcher_learns_the_mean_of_a_report_and_not_its_slowest() -> None:
    learned: list[tuple[str, int, float]] = []
    ignored = SimpleNamespace(record_load=lambda *_: None)
    lanes: Any = SimpleNamespace(learn_times=lambda *told: learned.append(told))
    coordinator: Any = SimpleNamespace(
        record_outcomes=lambda *_: None, owned=SimpleNamespace(bulkheads=ignored)
    )
    lane = LaneOutcomes(lane="a.b", finished={}, runs=RunTimes(count=7, mean=0.001, p99=5.0))
    report = Outcomes(
        agent=AgentId("agent-1"),
        incarnation=Incarnation("1"),
        sequence=1,
        sent_at=datetime.now(UTC),
        lanes=[lane],
    )
    DispatcherHandlers(lanes, coordinator, lambda: 0.0).on_outcomes(report)
    assert learned == [("a.b", 7, 0.001)]
