"""A task for which nobody decides gets no end, fallback or other lane: it waits, and pays once."""

from collections import Counter
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from maniple.messages import Envelope, Waiting
from maniple.topology import ADMITTED_KEY, DELAY_TIERS, tier_name
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.limit import ConcurrencyLimit, Limit, TokenBucketLimit
from maniple_dispatcher.limits.waiting_line import Then
from pipeline_with_fakes import Kind, PipelineWithFakes
from work_with_fakes import NOW, envelope

RATE: Kind = ("rate_limit", {"limit": 10})
SHAPE: Kind = ("rate_limit", {"limit": 10, "over": "shape"})
DEGRADE: Kind = ("rate_limit", {"limit": 10, "over": "degrade", "variant": "cheap"})
ROOM: Kind = ("bulkhead", {"max_in_flight": 1})
BREAKER: Kind = ("circuit_breaker", {"consecutive": 3})
FALLBACKS: list[Kind] = [
    ("fallback", {"value": "instead"}),
    ("fallback", {"last_good": True}),
    ("fallback", {"capability": "another"}),
    ("fallback", {"accept": True}),
]
Answer = tuple[bool | None, float]
YES, NO, NOBODY = (True, 0.0), (False, 1.0), (None, 1.0)


class FakeCoordinator:
    """In place of all dispatchers: answers as it is told to, by kind, and counts who asks."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.freed: Counter[str] = Counter()
        self.owned = SimpleNamespace(breaker=lambda _: (BreakerState.HALF_OPEN, 0.0))

    def take_permit(self, _limit: Limit, _now: float) -> None: ...

    def await_permit(self, limit: Limit, then: Then, _now: float) -> None:
        kind = self._kind(limit)
        self.asked[kind] += 1
        then(*self.answers.get(kind, YES))

    def return_permit(self, limit: Limit, _now: float) -> None:
        self.freed[self._kind(limit)] += 1

    def _kind(self, limit: Limit) -> str:
        kinds = {TokenBucketLimit: "rate_limit", ConcurrencyLimit: "bulkhead"}
        return kinds.get(type(limit), "circuit_breaker")


class UndecidedPipeline(PipelineWithFakes):
    """One that asks a coordinator which answers as it is told to."""

    def __init__(self, *policies: Kind) -> None:
        self.coordinator = FakeCoordinator()
        super().__init__(policies, self.coordinator)

    async def comes(self, before: Redelivery = Redelivery.UNKNOWN, **fields: Any) -> None:
        """Admit a task whose sender waits for a reply."""
        self.bring(envelope("1", lane="a.task", reply_to="theirs", **fields), before)
        await self.lanes.drain_lanes()

    async def comes_back(self, after: float = 60.0, *, redelivered: bool = False) -> None:
        """Return the task from where it waits."""
        task = self.waiting
        self.now += timedelta(seconds=after)
        self.publisher.sent.clear()
        await self.bring_back(task, redelivered=redelivered)

    @property
    def waiting(self) -> Envelope:
        (task,) = self.tasks("maniple.delay")
        return task

    @property
    def exchanges(self) -> set[str]:
        sent = self.publisher.sent
        return {one.exchange for one in sent if one.routing_key != ADMITTED_KEY}

    @property
    def sent(self) -> Envelope:
        (task,) = self.tasks("maniple.lanes")
        return task


@pytest.mark.parametrize("fallback", [None, *FALLBACKS], ids=str)
@pytest.mark.parametrize("kind", [RATE, SHAPE, DEGRADE, ROOM, BREAKER], ids=str)
async def test_it_waits_whatever_it_is_to_get_when_it_is_refused(
    kind: Kind, fallback: Kind | None
) -> None:
    pipeline = UndecidedPipeline(kind, *([fallback] if fallback else []))
    pipeline.coordinator.answers[kind[0]] = NOBODY
    await pipeline.comes()
    assert pipeline.exchanges == {"maniple.delay"}
    assert pipeline.waiting.waited_for == Waiting.UNDECIDED
    pipeline.coordinator.answers[kind[0]] = YES
    await pipeline.comes_back()
    assert (pipeline.sent.lane, pipeline.sent.owing) == ("a.task", False)


@pytest.mark.parametrize("kind", [RATE, ROOM, BREAKER], ids=str)
async def test_it_waits_also_when_all_that_it_could_wait_in_is_full(kind: Kind) -> None:
    pipeline = UndecidedPipeline(kind)
    pipeline.coordinator.answers[kind[0]] = NOBODY
    pipeline.publisher.full = {tier_name(tier) for tier in DELAY_TIERS}
    await pipeline.comes()
    assert pipeline.exchanges == {""}  # to the end of `maniple.retry` itself


@pytest.mark.parametrize("kind", [RATE, ROOM, BREAKER], ids=str)
async def test_it_expires_if_nobody_decides_before_its_deadline(kind: Kind) -> None:
    pipeline = UndecidedPipeline(kind)
    pipeline.coordinator.answers[kind[0]] = NOBODY
    await pipeline.comes(deadline=NOW + timedelta(seconds=30))
    await pipeline.comes_back(after=29.0)
    await pipeline.comes_back(after=2.0)
    (record,) = pipeline.publisher.to("maniple.results")
    assert b'"expired"' in record.body
    assert b"while it waited (undecided)" in record.body


@pytest.mark.parametrize("before", Redelivery)
async def test_what_comes_too_late_expires_whatever_its_policies_say(before: Redelivery) -> None:
    pipeline = UndecidedPipeline(RATE, ROOM, BREAKER)
    pipeline.coordinator.answers["rate_limit"] = NO
    await pipeline.comes(before, deadline=NOW - timedelta(seconds=5))
    await pipeline.results.drain_results()
    (record,) = pipeline.publisher.to("maniple.results")
    assert (b'"id":"1"' in record.body, b'"expired"' in record.body) == (True, True)


@pytest.mark.parametrize("kind", [RATE, DEGRADE], ids=str)
async def test_a_limit_that_was_passed_after_all_is_not_paid_again(kind: Kind) -> None:
    pipeline = UndecidedPipeline(kind, ROOM)
    pipeline.coordinator.answers = {"rate_limit": NOBODY}
    await pipeline.comes()
    pipeline.coordinator.answers = {"rate_limit": NO if kind is DEGRADE else YES, "bulkhead": NO}
    await pipeline.comes_back()
    pipeline.coordinator.answers = {}
    await pipeline.comes_back()
    assert (pipeline.coordinator.asked["rate_limit"], pipeline.coordinator.asked["bulkhead"]) == (
        2,
        2,
    )
    assert pipeline.sent.lane == ("a.task@cheap" if kind is DEGRADE else "a.task")


async def test_what_a_dispatcher_was_lost_over_has_yet_to_pay() -> None:
    pipeline = UndecidedPipeline(RATE)
    pipeline.coordinator.answers["rate_limit"] = NOBODY
    await pipeline.comes()
    pipeline.coordinator.answers["rate_limit"] = NO
    await pipeline.comes_back(redelivered=True)
    assert (pipeline.waiting.owing, pipeline.waiting.again) == (True, True)


async def test_a_turn_that_is_reserved_after_all_is_not_reserved_again() -> None:
    pipeline = UndecidedPipeline(SHAPE)
    pipeline.coordinator.answers["rate_limit"] = NOBODY
    await pipeline.comes()
    pipeline.coordinator.answers["rate_limit"] = (True, 30.0)
    await pipeline.comes_back()
    await pipeline.comes_back()
    assert pipeline.coordinator.asked["rate_limit"] == 2
    assert pipeline.sent.lane == "a.task"


async def test_what_was_refused_for_want_of_room_has_paid_its_rate() -> None:
    pipeline = UndecidedPipeline(RATE, ROOM, ("fallback", {"accept": True}))
    pipeline.coordinator.answers["bulkhead"] = NO
    await pipeline.comes()
    pipeline.coordinator.answers.clear()
    pipeline.publisher.sent = [m for m in pipeline.publisher.sent if m.exchange == "maniple.delay"]
    await pipeline.comes_back()
    assert (pipeline.sent.lane, pipeline.coordinator.asked["rate_limit"]) == ("a.task", 1)


@pytest.mark.parametrize("again", [0.001, 1.0, 1000.0])
async def test_what_its_limit_refuses_later_waits_and_asks_ever_more_seldom(again: float) -> None:
    pipeline = UndecidedPipeline(RATE)
    pipeline.coordinator.answers["rate_limit"] = NOBODY
    await pipeline.comes(deadline=NOW + timedelta(days=7))
    pipeline.coordinator.answers["rate_limit"] = (False, again)
    tiers = []
    for _ in range(30):
        await pipeline.comes_back(after=1000.0)
        assert pipeline.exchanges == {"maniple.delay"}
        (message,) = pipeline.publisher.to("maniple.delay")
        tiers.append(float(message.routing_key))
    assert tiers[-1] >= 30.0


async def test_a_probe_that_nobody_gives_leaves_the_room_to_others() -> None:
    pipeline = UndecidedPipeline(ROOM, BREAKER)
    pipeline.coordinator.answers["circuit_breaker"] = NOBODY
    await pipeline.comes()
    assert pipeline.coordinator.freed["bulkhead"] == 1
