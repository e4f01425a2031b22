"""What ends leaves no cycles: a loop stands still while a garbage collection frees many of them."""

import gc
from collections.abc import Awaitable, Callable

import pytest

from ingress_with_fakes import Ingress
from maniple.errors import ErrorCode
from maniple.execution import Outcome, failed
from pipeline_with_fakes import PipelineWithFakes
from work_with_fakes import OK, Agent, Delivery, envelope

TIMES = 200


async def garbage(act: Callable[[str], Awaitable[None]]) -> float:
    """Return how many objects each of many acts leaves to the garbage collector."""
    await act("first")
    gc.collect()
    gc.freeze()  # what an earlier test has left does not count, whenever it is let go
    gc.disable()
    try:
        for number in range(TIMES):
            await act(str(number))
        return gc.collect() / TIMES
    finally:
        gc.enable()
        gc.unfreeze()


async def test_a_cycle_is_found() -> None:
    async def act(_: str) -> None:
        one: list[object] = []
        one.append(one)

    assert await garbage(act) >= 1  # else the tests below could not fail


FAILS = failed(ErrorCode.HANDLER_ERROR, "no")


@pytest.mark.parametrize("outcome", [OK, FAILS])  # which is tried again
@pytest.mark.parametrize("reply_to", [None, "theirs", "maniple.replies.client"])
async def test_a_task_that_leaves_an_agent_leaves_none(
    reply_to: str | None, outcome: Outcome
) -> None:
    agent = Agent()

    async def act(name: str) -> None:
        await agent.take(Delivery(envelope(name, reply_to=reply_to, max_attempts=3)))
        await agent.finish(name, outcome)

    assert await garbage(act) < 1


@pytest.mark.parametrize("reply_to", [None, "theirs"])
async def test_a_refused_submission_leaves_none(reply_to: str | None) -> None:
    ingress = Ingress()

    async def act(name: str) -> None:
        await ingress.take({"x": 1}, message_id=name, reply_to=reply_to)

    assert await garbage(act) < 1


@pytest.mark.parametrize("absent", [False, True])
async def test_a_task_that_goes_to_its_lane_or_waits_leaves_none(*, absent: bool) -> None:
    gate = PipelineWithFakes([], None)
    if absent:
        gate.publisher.absent.add("text.stats")

    async def act(name: str) -> None:
        gate.bring(envelope(name))
        await gate.drain()

    assert await garbage(act) < 1
