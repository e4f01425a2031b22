"""What a soak has to see: made-up samples and accounts with one thing wrong in each."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import Raw

from maniple.messages import Result, Status
from maniple_runtime.records import Entry, Position
from system.soak.accounts import KEPT, Accounts, task_id
from system.soak.judging import Life, Pace, Samples, Series, breaches

SECONDS = 600
SHORTEST = 180.0
PACE = Pace(wanted=100.0, carried=100.0)
Shape = Callable[[int], float]


def series(shape: Shape, until: int = SECONDS) -> Series:
    found = Series()
    for second in range(until):
        found.add(float(second), shape(second))
    return found


def flat(_: int) -> float:
    return 50.0


def warm_up_then_flat(second: int) -> float:
    return 10.0 if second < SECONDS / 10 else 50.0


def burst_at_the_end(second: int) -> float:
    return 5000.0 if second > SECONDS - 10 else 50.0


def leak(second: int) -> float:
    return 50.0 + second / 50


def samples(**changes: Shape) -> Samples:
    shapes = {"memory": flat, "descriptors": flat, "queue": flat, "objects": flat, **changes}
    one = Life("agent-1", 7, series(shapes["memory"]), series(shapes["descriptors"]))
    queues = {"maniple.submit": series(shapes["queue"])}
    return Samples([one], queues, {"queues": series(shapes["objects"])})


def said(found: Samples, pace: Pace = PACE) -> str:
    return "; ".join(breaches(found, pace, SHORTEST))


@pytest.mark.parametrize("shape", [flat, warm_up_then_flat, burst_at_the_end])
def test_what_is_flat_but_for_warming_up_and_a_burst_is_no_breach(shape: Shape) -> None:
    assert not said(samples(memory=shape, descriptors=shape, queue=shape, objects=shape))


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("memory", "agent-1 (process 7) grows"),
        ("descriptors", "agent-1 (process 7) leaks descriptors"),
        ("objects", "the broker has"),
    ],
)
def test_what_grows_is_told_by_its_name(what: str, sentence: str) -> None:
    told = said(samples(**{what: leak}))
    assert told.startswith(sentence)
    assert ";" not in told


def test_a_queue_grows_that_becomes_longer_by_more_than_a_second_of_tasks() -> None:
    assert "queue maniple.submit grows" in said(samples(queue=lambda second: second))
    assert not said(samples(queue=lambda second: second / 10))


def test_each_life_is_judged_from_its_own_start() -> None:
    found = samples()
    found.lives.append(Life("agent-1", 8, series(leak, 400), series(flat, 400)))
    assert "process 8" in said(found)
    found.lives[-1] = Life("agent-1", 8, series(leak, 100), series(flat, 100))
    assert not said(found), "it was too short to tell, and another life could be judged"


def test_a_process_without_a_life_that_can_be_judged_is_a_breach() -> None:
    found = samples()
    found.lives.append(Life("agent-2", 8, series(flat, 100), series(flat, 100)))
    assert "agent-2 never lived for 180 s" in said(found)


def test_a_rate_that_was_not_carried_is_a_breach() -> None:
    assert "90 tasks/s were submitted" in said(samples(), Pace(wanted=100.0, carried=90.0))


def test_a_broker_that_was_not_asked_is_a_breach() -> None:
    found = samples()
    assert "nothing was heard" in said(Samples(found.lives))


def ended(number: int, *, offset: int | None = None, output: int | None = None) -> Entry:
    place = number if offset is None else offset
    result = Result(
        id=task_id(number),
        capability="c",
        status=Status.SUCCEEDED,
        output=Raw(str(number if output is None else output).encode()),
        finished_at=datetime.fromtimestamp(1000 + place, UTC),
    )
    return Entry(Position(place), result)


def accounts(count: int = 5, block: int = 100) -> Accounts:
    """Return accounts in which all is well."""
    found = Accounts(block)
    found.submit(count)
    found.tell(range(count))
    for number in range(count):
        found.take(ended(number))
    return found


def told(found: Accounts) -> str:
    return "; ".join(found.end())


def test_accounts_that_agree_are_complete_and_without_complaint() -> None:
    found = accounts()
    assert found.complete
    assert not told(found)


def test_a_task_without_a_result_is_lost() -> None:
    found = accounts()
    found.submit(6)
    assert not found.complete
    all_said = told(found)
    assert "the totals differ: 6 tasks, 6 confirmed, 5 terminal" in all_said
    assert "1 tasks were never told to their submitter: soak-5" in all_said
    assert "1 tasks have no result in the stream: soak-5" in all_said


def test_a_result_that_the_stream_does_not_have_is_seen() -> None:
    found = accounts()
    found.submit(6)
    found.tell([5])
    assert "1 tasks have no result in the stream: soak-5" in told(found)


def test_a_second_result_for_the_submitter_is_seen() -> None:
    found = accounts()
    found.tell([3])
    assert "task 3 was told of twice" in told(found)


@pytest.mark.parametrize("odd", [(5, "failed", None), (5, "succeeded", 6)])
def test_a_result_that_is_not_the_payload_is_seen(odd: tuple[int, str, Any]) -> None:
    found = accounts()
    found.submit(6)
    found.tell([], [odd])
    found.take(ended(5))
    assert "1 tasks did not return their payload: soak-5" in told(found)


def test_a_record_that_is_not_the_payload_is_seen() -> None:
    found = accounts()
    found.submit(6)
    found.tell([5])
    found.take(ended(5, output=4))
    assert "1 tasks did not return their payload: soak-5" in told(found)


def test_a_late_second_end_is_counted_and_no_complaint() -> None:
    found = accounts()
    found.take(ended(3, offset=9))
    assert not told(found)
    assert found.sums["late results refused"] == 1


def test_blocks_are_forgotten_and_what_comes_again_later_is_seen() -> None:
    found = accounts(10 * (KEPT + 1), block=10)
    found.close()
    assert found.complete
    assert not found.problems
    found.tell([0])
    found.take(ended(0))
    assert "task 0 was told of twice" in told(found)
    assert found.sums["records after their block was closed"] == 1
