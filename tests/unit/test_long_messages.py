"""Long messages are worked through in slices, between which others have their turns."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import pytest

from channels import until_idle
from ingress_with_fakes import Ingress, Submission
from maniple.amqp.byte_budget import LONG_TASKS, TASK_BYTES, Length
from maniple.messages import Status
from maniple_dispatcher.ingress import long_messages
from maniple_dispatcher.ingress.long_messages import MOST_UNSETTLED, SLICE, LongMessages, Steps
from maniple_runtime.publish.confirm import Settlement
from waiting import hold_within

LONG = LONG_TASKS * TASK_BYTES
LONGEST = LONG + 1


def delivery(weight: int = LONG) -> Any:
    one = Submission({})
    one.weight = weight
    return one


def watched(long: LongMessages, one: Any) -> Settlement:
    source = Settlement(one, 1)
    long.watch_source(source)
    return source


def busy(seen: list[str], name: str, steps: int = 5) -> Steps:
    """Take a slice a step."""
    for number in range(steps):
        seen.append(f"{name}{number}")
        until = monotonic() + SLICE
        while monotonic() < until:
            pass
        yield


@pytest.fixture
async def long() -> AsyncIterator[LongMessages]:
    one = LongMessages(monotonic)
    working = asyncio.create_task(one.work_in_slices())
    yield one
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def test_a_short_message_is_done_at_once(long: LongMessages) -> None:
    seen: list[str] = []
    long.work_through(delivery(0), busy(seen, "a", 3))
    assert seen == ["a0", "a1", "a2"]


async def test_a_long_one_lets_short_ones_pass_after_each_slice(long: LongMessages) -> None:
    seen: list[str] = []
    long.work_through(delivery(), busy(seen, "long"))
    assert seen == []
    for number in range(3):
        await asyncio.sleep(0)
        long.work_through(delivery(0), busy(seen, f"short{number}-", 1))
    await long.drain_messages()
    begun, ended = seen.index("long0"), seen.index("long4")
    assert begun < seen.index("short2-0") < ended
    assert [one for one in seen if one.startswith("long")] == [f"long{n}" for n in range(5)]


async def test_long_ones_take_turns_so_that_none_waits_for_the_end_of_a_longer_one(
    long: LongMessages,
) -> None:
    seen: list[str] = []
    long.work_through(delivery(LONGEST), busy(seen, "a", 4))
    long.work_through(delivery(), busy(seen, "b", 2))
    await long.drain_messages()
    assert seen == ["a0", "b0", "a1", "b1", "a2", "a3"]


async def test_one_that_is_delivered_again_is_left_to_whoever_has_it(long: LongMessages) -> None:
    seen: list[str] = []
    lost = delivery()
    long.work_through(lost, busy(seen, "lost"))
    waits = delivery()
    long.work_through(waits, busy(seen, "waits"))
    long.work_through(delivery(), busy(seen, "next", 1))
    await asyncio.sleep(0)
    lost.alive = waits.alive = False
    await long.drain_messages()
    assert seen == ["lost0", "next0"]
    assert (lost.acked, lost.rejected) == (0, 0)


async def test_one_that_cannot_be_handled_is_refused_and_costs_no_other(
    long: LongMessages,
) -> None:
    seen: list[str] = []

    def fails() -> Steps:
        yield
        raise ValueError("whatever")

    bad = delivery()
    long.work_through(bad, fails())
    long.work_through(delivery(), busy(seen, "next", 1))
    await long.drain_messages()
    assert (bad.rejected, seen) == (1, ["next0"])


async def test_no_more_is_given_to_the_broker_than_it_confirms_soon(
    long: LongMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_messages, "LONGEST_REST", 60.0)
    monkeypatch.setattr(long_messages, "LATELY", 60.0)
    long.work_through(delivery(0), busy([], "short", 1))
    one, seen = delivery(), list[str]()
    source, each = watched(long, one), MOST_UNSETTLED // 4

    def sends() -> Steps:
        for _ in busy(seen, "sent", 12):
            source.expect(each)
            yield
        source.settle()

    long.work_through(one, sends())
    for rounds in range(1, 4):
        await hold_within(lambda: source.remaining > MOST_UNSETTLED, 10)
        await asyncio.sleep(20 * SLICE)
        assert (len(seen), source.remaining) == (4 * rounds, MOST_UNSETTLED + 1)
        for _ in range(4 * each):
            source.settle()
    await long.drain_messages()
    assert (one.acked, source.remaining) == (1, 0)


async def test_what_is_never_confirmed_holds_up_no_other_for_long(long: LongMessages) -> None:
    stuck, seen = delivery(), list[str]()
    watched(long, stuck).expect(2 * MOST_UNSETTLED)
    long.work_through(delivery(0), busy(seen, "short", 1))
    long.work_through(delivery(), busy(seen, "next", 3))
    async with asyncio.timeout(60):
        await long.drain_messages()
    assert seen == ["short0", "next0", "next1", "next2"]


@pytest.mark.parametrize(
    ("weight", "came", "waits"),
    [
        (LONG, 0, True),
        (LONGEST, 0, True),
        (LONGEST, LONG, True),
        (LONG, LONG, False),
        (LONG, LONGEST, False),
        (LONGEST, LONGEST, False),
    ],
)
async def test_only_for_what_is_shorter_and_has_come_lately_is_the_way_kept_clear(
    long: LongMessages, monkeypatch: pytest.MonkeyPatch, weight: int, came: int, *, waits: bool
) -> None:
    length = Length.LONG if weight == LONG else Length.LONGEST
    watched(long, delivery(weight)).expect(2 * MOST_UNSETTLED)
    assert not long._is_in_the_way(length)
    long.work_through(delivery(came), busy([], "other", 1))
    assert long._is_in_the_way(length) == waits
    monkeypatch.setattr(long_messages, "LATELY", 0.0)
    assert not long._is_in_the_way(length)


async def test_what_is_delivered_again_or_settled_is_not_waited_for(long: LongMessages) -> None:
    long.work_through(delivery(0), busy([], "short", 1))
    lost, settled = delivery(), delivery()
    watched(long, lost).expect(2 * MOST_UNSETTLED)
    (source := watched(long, settled)).expect(2 * MOST_UNSETTLED)
    lost.alive = False
    assert long._is_in_the_way(Length.LONG)
    for _ in range(2 * MOST_UNSETTLED + 1):
        source.settle()
    assert not long._is_in_the_way(Length.LONG)
    watched(long, delivery())
    assert len(long._sources) == 1  # the others are forgotten


PAST = "2020-01-01T00:00:00Z"
GOOD: Any = {"payload": 1}
LATE: Any = {"deadline": PAST}
BAD: Any = {"x": 1}


@pytest.mark.parametrize(
    "members",
    [
        [GOOD] * 300,
        [LATE] * 300,
        [GOOD, LATE] * 150,
        [GOOD] * 280 + [BAD] * 20,
        [BAD] * 21 + [GOOD] * 280,
    ],
    ids=["good", "late", "mixed", "some bad", "many bad"],
)
async def test_of_a_long_array_becomes_what_would_of_short_ones(members: list[Any]) -> None:
    told = []
    for weight in (0, LONG):
        ingress = Ingress()
        working = asyncio.create_task(ingress.long.work_in_slices())
        one: Any = Submission(members)
        one.weight = weight
        ingress.submissions.on_submission(one)
        assert bool(ingress.long._begun) == (weight > 0)
        await ingress.long.drain_messages()
        await ingress.drain()
        await until_idle()
        working.cancel()
        answers = sorted(str(answer.error) + answer.id for answer in ingress.answered)
        told.append((ingress.admitted, answers, len(ingress.recorded), len(ingress.kept)))
        assert all(answer.status is Status.REJECTED for answer in ingress.answered)
        assert (one.acked, one.rejected) == (1, 0)
    assert told[0] == told[1]
