"""Which of the messages in a client's reply queue end which of its tasks.

Whoever submits may name any queue as `reply_to`, and any id.
"""

from types import SimpleNamespace
from typing import Any

import pytest

from maniple import ErrorCode, ManipleError, Status
from maniple.client.amqp import AmqpCarrier
from maniple.client.handle import TaskHandle
from maniple.client.outstanding import Outstanding
from maniple.codec import encode
from maniple.messages import ACCEPTED_TYPE, RESULT_TYPE, RUNNING_TYPE, Failure, Result, TaskAccepted
from work_with_fakes import NOW, Delivery

OURS = "our-message"
REFUSED = (Status.REJECTED, Status.EXPIRED)


class Client:
    """The receiving end of a client that has submitted task `x` in a message."""

    def __init__(self, message_id: str = OURS) -> None:
        outstanding = Outstanding()
        self._carrier = AmqpCarrier("amqp://nowhere", outstanding, None)
        self.handle = TaskHandle("x", "default", "a.task", b"")
        self.handle.message_id = message_id
        outstanding.add(self.handle)

    def hear(self, *results: Any, message_type: str | None = RESULT_TYPE) -> None:
        for result in results:
            delivery: Any = Delivery(body=encode(result))
            delivery.properties = SimpleNamespace(message_type=message_type)
            self._carrier._on_delivery(delivery)
            assert delivery.acked == 1

    async def ends_as(self, code: ErrorCode) -> bool:
        error = (await self.handle.outcome(0)).error
        return error is not None and error.code == code


def refusal(status: Status, detail: Any, task_id: str = "x") -> Result:
    error = Failure(code=ErrorCode.DEADLINE_EXCEEDED, message="too late", detail=detail)
    return Result(id=task_id, capability="a.task", status=status, error=error)


def succeeded() -> Result:
    return Result(id="x", capability="a.task", status=Status.SUCCEEDED)


@pytest.mark.parametrize("status", REFUSED)
@pytest.mark.parametrize(
    "detail",
    [
        {"id": "x"},  # of a message without an id, or of a member that claims this one
        {"id": "x", "position": 3},
        {"id": "x", "message_id": "another"},
        {"id": "x", "message_id": ""},
        {"id": "x", "message_id": None},
        {"id": "x", "message_id": 7},
        {"message_id": "another"},
    ],
)
async def test_bad_input_of_another_ends_no_task_whatever_id_it_claims(
    status: Status, detail: Any
) -> None:
    client = Client()
    client.hear(refusal(status, detail), refusal(status, {**detail, "id": OURS}, OURS))
    assert not client.handle.done
    client.hear(succeeded())
    assert (await client.handle.outcome(0)).status is Status.SUCCEEDED


async def test_a_task_that_was_not_sent_yet_is_refused_in_no_message() -> None:
    client = Client(message_id="")
    client.hear(refusal(Status.REJECTED, {"id": "x", "message_id": "before"}))
    client.hear(refusal(Status.REJECTED, {"id": "x"}))
    assert not client.handle.done


@pytest.mark.parametrize("status", REFUSED)
@pytest.mark.parametrize(
    ("detail", "task_id"),
    [
        ({"id": "x", "message_id": OURS, "position": 0}, "x"),
        ({"id": OURS, "message_id": OURS}, OURS),  # of the whole message
        (None, "x"),  # as an earlier release says it
        ({"field": "colour"}, "x"),
        ({"field": "colour"}, OURS),
        (["id"], "x"),
    ],
)
async def test_a_refusal_of_its_own_message_ends_a_task(
    status: Status, detail: Any, task_id: str
) -> None:
    client = Client()
    client.hear(refusal(status, detail, task_id))
    assert await client.ends_as(ErrorCode.DEADLINE_EXCEEDED)
    assert (await client.handle.outcome(0)).id == "x"


async def test_what_a_handler_says_of_bad_input_ends_its_task_whatever_its_detail() -> None:
    client = Client()
    error = Failure(code=ErrorCode.INVALID_TASK, message="no", detail={"id": 1, "message_id": "m"})
    client.hear(Result(id="x", capability="a.task", status=Status.FAILED, error=error))
    assert await client.ends_as(ErrorCode.INVALID_TASK)


async def test_a_rejection_without_an_error_ends_its_task() -> None:
    client = Client()
    client.hear(Result(id="x", capability="a.task", status=Status.REJECTED))
    with pytest.raises(ManipleError, match="no reason"):
        await client.handle.result(0)


@pytest.mark.parametrize("kind", [ACCEPTED_TYPE, RUNNING_TYPE, "maniple.of-a-later-release.v1"])
async def test_what_says_of_no_task_that_it_has_ended_ends_none(kind: str) -> None:
    client = Client()
    said = TaskAccepted(
        id="x",
        capability="a.task",
        lane="a.task",
        submitted_at=NOW,
        dispatched_at=NOW,
        deadline=NOW,
    )
    client.hear(said, [said], message_type=kind)
    assert not client.handle.done
    client.hear(succeeded())
    assert (await client.handle.outcome(0)).status is Status.SUCCEEDED


@pytest.mark.parametrize("kind", [None, "", "maniple.result.v1", "maniple.results.v9"])
async def test_results_are_read_whatever_their_version(kind: str | None) -> None:
    client = Client()
    client.hear(succeeded(), message_type=kind)
    assert (await client.handle.outcome(0)).status is Status.SUCCEEDED
