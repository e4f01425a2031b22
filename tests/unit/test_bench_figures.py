"""What `make bench` computes from its measurements."""

import asyncio

import pytest
from bench.arrivals import Arrivals
from bench.broker_bytes import Traffic, parse
from bench.efficiency import efficiency
from bench.figures import (
    Run,
    carried,
    from_due,
    medians,
    microseconds,
    middle_of,
    middle_ratio,
    percentile,
    spread,
)
from bench.processes import difference, family
from hypothesis import given
from hypothesis import strategies as st

TIMES = st.lists(st.floats(0.0, 1e3), min_size=1, max_size=200)


@given(TIMES, st.floats(0.001, 1.0))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    times: list[float], share: float
) -> None:
    ordered = sorted(times)
    found = percentile(ordered, share)
    assert found in ordered
    assert sum(one <= found for one in ordered) >= share * len(ordered) - 1e-9
    assert sum(one < found for one in ordered) < share * len(ordered)


def test_percentiles_of_a_thousand_are_what_one_counts_off() -> None:
    found = spread([number / 1000 for number in range(1000, 0, -1)])
    assert found == {"p50": 500.0, "p90": 900.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0}


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


def test_a_stall_counts_for_every_task_that_was_due_in_it() -> None:
    due = [number / 10 for number in range(20)]  # ten a second
    ended = [max(moment, 1.0) + 0.001 for moment in due]  # the first second stood still
    waited = from_due(due, ended)
    assert waited[0] == pytest.approx(1.001)
    assert waited[5] == pytest.approx(0.501)
    assert sum(one > 0.05 for one in waited) == 10  # not only the one that was sent last


async def test_arrivals_are_due_by_the_rate_however_late_they_are_taken() -> None:
    now = 100.0
    arrivals = Arrivals(10.0, 0.5, lambda: now)
    taken = []
    async for number in arrivals:
        now += 1.0  # who takes them is slow
        taken.append(number)
        await asyncio.sleep(0)
    assert taken == [0, 1, 2, 3, 4] == list(range(arrivals.count))
    assert [arrivals.due(number) for number in taken] == pytest.approx(
        [100.0, 100.1, 100.2, 100.3, 100.4]
    )


def test_a_ratio_is_of_what_ran_next_to_each_other() -> None:
    assert middle_ratio([10.0, 20.0, 90.0], [1.0, 10.0, 10.0]) == 9.0


def test_a_rate_is_carried_if_nearly_all_came_back_in_time() -> None:
    assert carried(1000.0, 975.0)
    assert not carried(1000.0, 960.0)


def test_processor_time_is_of_a_task_and_has_a_total() -> None:
    assert microseconds({"client": 0.1, "broker": 0.3}, 1000) == pytest.approx(
        {"client": 100.0, "broker": 300.0, "total": 400.0}
    )


def test_medians_of_runs_are_of_each_group_of_processes() -> None:
    runs = [Run(10, rate, {"broker": rate, "total": 2 * rate}) for rate in (1.0, 5.0, 2.0)]
    found = medians(runs)
    assert (found["rate"], found["microseconds"]) == (2, {"broker": 2.0, "total": 4.0})
    assert found["rates"] == [1, 5, 2]


def test_the_middle_of_rounds_leaves_out_what_a_round_does_not_have() -> None:
    assert middle_of([{"p50": 1.0}, {"p50": 3.0, "p99": 9.0}, {"p50": 2.0}]) == {
        "p50": 2.0,
        "p99": 9.0,
    }


def test_a_family_is_all_that_descend_from_its_roots() -> None:
    assert family([1], {2: 1, 3: 2, 4: 9, 5: 3}) == {1, 2, 3, 5}


def test_processor_time_between_readings_is_never_less_than_none() -> None:
    assert difference({"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 4.0}) == {"a": 2.0, "b": 0.0}


def test_the_brokers_connections_are_added_up() -> None:
    assert parse("recv_oct\tsend_oct\n100\t20\n5\t1\n") == Traffic(105, 21)


def test_traffic_is_bytes_a_task_since_a_reading() -> None:
    found = Traffic(1000, 500).since(Traffic(200, 100), 10)
    assert found == {"received": 80.0, "sent": 40.0}


def test_efficiency_is_one_when_every_place_was_always_taken() -> None:
    assert efficiency(1000, 0.1, 100, 1.0) == pytest.approx(1.0)
    assert efficiency(1000, 0.1, 100, 2.0) == pytest.approx(0.5)
