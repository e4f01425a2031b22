"""One task that an agent cannot handle costs no other."""

from datetime import timedelta
from typing import Any

import pytest

from maniple.errors import ErrorCode
from maniple.execution import failed
from maniple.messages import Result, Status
from maniple_agent import completion
from work_with_fakes import NOW, OK, Agent, Delivery, envelope

NAIVE = NOW.replace(tzinfo=None)
UNENCODABLE = failed(ErrorCode.HANDLER_ERROR, "no", detail=object())


def code_of(result: Result) -> ErrorCode | None:
    return result.error.code if result.error else None


@pytest.mark.parametrize(
    "changes",
    [
        {"deadline": NAIVE + timedelta(hours=1)},  # cannot be compared when it is taken
        {"dispatched_at": NAIVE},  # nor when it starts
    ],
    ids=["taken", "started"],
)
async def test_a_task_that_cannot_be_taken_or_started_ends_and_its_neighbours_run(
    changes: dict[str, Any],
) -> None:
    agent = Agent()
    delivery = Delivery(envelope("1"), envelope("bad", max_attempts=3, **changes), envelope("2"))
    await agent.take(delivery)
    assert agent.executor.ids == ["1", "2"]
    (result,) = agent.results()
    assert (result.id, result.status, code_of(result)) == (
        "bad",
        Status.FAILED,
        ErrorCode.HANDLER_ERROR,
    )
    await agent.finish("1")
    await agent.finish("2")
    assert (delivery.acked, delivery.rejected, len(agent.work.running)) == (1, 0, 0)


async def test_a_suspect_that_cannot_be_started_does_not_hold_up_the_next() -> None:
    agent = Agent()
    await agent.take(Delivery(envelope("s1", lost=2, dispatched_at=NAIVE)), suspect=True)
    await agent.take(Delivery(envelope("s2", lost=2)), suspect=True)
    assert agent.executor.ids == ["s2"]


async def test_an_outcome_that_cannot_be_told_ends_its_task_and_no_other() -> None:
    agent = Agent()
    delivery = Delivery(envelope("1"), envelope("2", max_attempts=1))
    await agent.take(delivery)
    await agent.finish("2", UNENCODABLE)
    await agent.finish("1")
    assert [(result.id, code_of(result)) for result in agent.results()] == [
        ("2", ErrorCode.HANDLER_ERROR),
        ("1", None),
    ]
    assert (delivery.acked, len(agent.work.running), len(agent.work.attempts)) == (1, 0, 0)


async def test_a_failure_that_cannot_be_published_is_left_to_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any) -> Any:
        raise LookupError("no result at all")

    agent = Agent()
    bad, good = Delivery(envelope("1")), Delivery(envelope("2"))
    await agent.take(bad)
    await agent.take(good)
    with monkeypatch.context() as patch:
        patch.setattr(completion, "conclude", fails)
        patch.setattr(completion, "last", fails)
        await agent.finish("1", OK)
    await agent.finish("2", OK)
    assert (bad.acked, bad.rejected, good.acked) == (0, 1, 1)
