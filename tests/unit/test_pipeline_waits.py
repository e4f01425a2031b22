"""A task that has waited knows why: its result says so, and its dispatch where it came from."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kept_spans import Kept
from maniple.messages import Envelope, Waiting
from maniple.topology import ADMITTED_KEY
from maniple.traceparent import begun_trace
from maniple_dispatcher.limits.breaker import BreakerState
from pipeline_with_fakes import Kind, PipelineWithFakes
from work_with_fakes import NOW, envelope

LIMIT = {"limit": 1, "period": 60}
SHAPE: list[Kind] = [("rate_limit", LIMIT | {"over": "shape", "max_wait": 60})]
ACCEPT: list[Kind] = [
    ("rate_limit", LIMIT),
    ("fallback", {"on": ["rate_limited"], "accept": True}),
]
BULKHEAD: list[Kind] = [("bulkhead", {"max_in_flight": 1, "over": "wait"})]
ACCEPT_ROOM: list[Kind] = [
    ("bulkhead", {"max_in_flight": 1}),
    ("fallback", {"on": ["overloaded"], "accept": True}),
]


class FakeCoordinator:
    """In place of all dispatchers' limits: all are used up, for 30 s, until it `passes`."""

    def __init__(self) -> None:
        self.shaped = False
        self.passes = False
        self.owned = SimpleNamespace(breaker=lambda _: (BreakerState.CLOSED, 0.0))

    def take_permit(self, _limit: object, _now: float) -> None: ...

    def await_permit(self, _: object, then: Any, now: float) -> None:
        del now
        then(self.passes or self.shaped, 0.0 if self.passes else 30.0)


class UsedUpPipeline(PipelineWithFakes):
    """One whose limits are used up, and that is traced."""

    def __init__(self, policies: list[Kind]) -> None:
        self.kept, self.coordinator = Kept(), FakeCoordinator()
        self.coordinator.shaped = policies is SHAPE
        super().__init__(policies, self.coordinator, tracer=self.kept.tracer())

    async def waits(self, task: Envelope) -> Envelope:
        """Admit a task that has to wait; return it as it is in the delay."""
        self.bring(task)
        await self.lanes.drain_lanes()
        return self.tasks("maniple.delay")[-1]

    async def comes_back(self, task: Envelope, seconds: float) -> None:
        self.now = NOW + timedelta(seconds=seconds)
        await self.bring_back(task)


@pytest.mark.parametrize(
    ("policies", "why"),
    [
        (SHAPE, Waiting.LIMITED),
        (ACCEPT, Waiting.LIMITED),
        (BULKHEAD, Waiting.FULL_BULKHEAD),
        (ACCEPT_ROOM, Waiting.FULL_BULKHEAD),
    ],
)
async def test_a_task_that_a_policy_held_says_so_when_it_expires_and_in_its_trace(
    policies: list[Kind], why: Waiting
) -> None:
    task = envelope("t", traceparent=begun_trace(7 << 64, sampled=True), dispatched_at=NOW)
    pipeline = UsedUpPipeline(policies)
    waiting = await pipeline.waits(task)
    await pipeline.comes_back(waiting, 7200)
    sent = pipeline.publisher.to("maniple.results")
    (result,) = [one for one in sent if one.routing_key != ADMITTED_KEY]
    assert f"passed while it waited ({why.value.replace('_', ' ')})" in result.body.decode()

    pipeline.coordinator.passes = True
    await pipeline.comes_back(waiting, 60)
    spans = [one for one in pipeline.kept.spans if one.name.startswith("dispatch")]
    queues = [one.attributes["messaging.destination.name"] for one in spans]
    assert queues == ["maniple.submit", "maniple.retry", "maniple.retry"]


async def test_a_task_says_so_when_it_expires_before_another_attempt_or_without_an_agent() -> None:
    pipeline = UsedUpPipeline([])
    pipeline.publisher.full = {"a.lane"}  # not "a.task": results have that key
    waiting = await pipeline.waits(envelope("t", lane="a.lane"))
    await pipeline.comes_back(waiting, 7200)
    await pipeline.comes_back(envelope("u", attempt=2, accepted=True), 7200)  # an older agent's
    bodies = "".join(one.body.decode() for one in pipeline.publisher.to("maniple.results"))
    assert bodies.count("(overloaded)") == bodies.count("(next attempt)") == 1


@pytest.mark.parametrize(("behind", "over"), [(None, True), (1.5, False), (-1.5, True)])
async def test_a_task_is_over_by_the_clusters_time_where_the_own_clock_is_ahead_of_it(
    behind: float | None, over: bool
) -> None:
    pipeline = UsedUpPipeline([])
    waiting = envelope("t", deadline=NOW + timedelta(seconds=9))
    if behind is not None:
        pipeline.known = NOW + timedelta(seconds=10 - behind)
    await pipeline.comes_back(waiting, 10.0)
    assert bool(pipeline.publisher.to("maniple.results")) is over
