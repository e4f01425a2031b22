"""Which of the messages in a client's reply queue end which of its tasks.

Whoever submits may name any queue as `reply_to`, and any id.
"""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from maniple import ErrorCode, ManipleError, Status
from maniple.amqp.reply_consumer import ReplyConsumer
from maniple.client.carrier import AmqpCarrier
from maniple.client.handle import OutstandingHandles, TaskHandle
from maniple.codec import encode
from maniple.messages import ACCEPTED_TYPE, RESULT_TYPE, RUNNING_TYPE, Failure, Result, TaskAccepted
from maniple.topology import REPLY_PREFIX
from maniple_policies.kinds.fallback import FallbackPolicy, FallbackSpec
from work_with_fakes import NOW, Delivery

OURS = "our-message"
REFUSED = (Status.REJECTED, Status.EXPIRED)


class Client:
    """The receiving end of a client that has submitted task `x` in a message."""

    def __init__(self, message_id: str = OURS) -> None:
        outstanding = OutstandingHandles()
        self._carrier = AmqpCarrier("amqp://nowhere", outstanding, None)
        self.handle = TaskHandle("x", "default", "a.task", b"")
        self.handle.message_id = message_id
        outstanding.add_ticket(self.handle)

    def hear(
        self,
        *results: Any,
        message_type: str | None = RESULT_TYPE,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        replies = self._carrier._replies
        for result in results:
            delivery: Any = Delivery(body=encode(result))
            delivery.routing_key = (
                replies.address.removeprefix(REPLY_PREFIX) if key is None else key
            )
            delivery.properties = SimpleNamespace(
                message_type=message_type, correlation_id=correlation_id
            )
            self._carrier._on_delivery(delivery)
            assert delivery.acked == 1

    @property
    def replies(self) -> ReplyConsumer:
        return self._carrier._replies

    async def ends_as(self, code: ErrorCode) -> bool:
        error = (await self.handle.outcome(0)).error
        return error is not None and error.code == code


def refusal(status: Status, detail: Any, task_id: str = "x") -> Result:
    error = Failure(code=ErrorCode.DEADLINE_EXCEEDED, message="too late", detail=detail)
    return Result(id=task_id, capability="a.task", status=status, error=error)


def succeeded() -> Result:
    return Result(id="x", capability="a.task", status=Status.SUCCEEDED)


FORGED = {
    "under the name of the queue": {"key": "{client}"},
    "through the default exchange": {"key": "maniple.replies.{client}"},
    "under another client's address": {"key": "c2VjcmV0"},
    "with no key": {"key": ""},
}


@pytest.mark.parametrize("how", FORGED)
async def test_what_comes_without_the_secret_of_the_address_ends_no_task(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client()
    key = FORGED[how]["key"].format(client=client.replies.queue.removeprefix(REPLY_PREFIX))
    for _ in range(3):
        client.hear(succeeded(), key=key)
    assert not client.handle.done
    assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) == 1
    client.hear(succeeded())
    assert (await client.handle.outcome(0)).status is Status.SUCCEEDED


@pytest.mark.parametrize("correlation_id", [None, "", "guessed"])
async def test_where_the_address_is_a_queues_name_the_correlation_id_is_the_secret(
    correlation_id: str | None,
) -> None:
    client = Client()
    assert client.replies.correlation_id is None
    client.replies.use_exclusive("amq.gen-1")
    assert client.replies.address == "amq.gen-1"
    client.hear(succeeded(), key="amq.gen-1", correlation_id=correlation_id)
    assert not client.handle.done
    client.hear(succeeded(), key="amq.gen-1", correlation_id=client.replies.correlation_id)
    assert (await client.handle.outcome(0)).status is Status.SUCCEEDED


async def test_a_reply_address_has_nothing_that_the_name_of_its_queue_tells() -> None:
    one, other = Client().replies, Client().replies
    name, address = one.queue.removeprefix(REPLY_PREFIX), one.address.removeprefix(REPLY_PREFIX)
    assert name not in address
    assert address not in name
    assert one.address != other.address
    assert len(address) >= 22


OVERLOADED = Failure(code=ErrorCode.OVERLOADED, message="full")


@pytest.mark.parametrize(
    "result",
    [
        Result(id="x", capability="maniple.echo", status=Status.SUCCEEDED),
        Result(id="x", capability="maniple.fail", status=Status.FAILED, error=OVERLOADED),
        Result(id="x", capability="a.task2", status=Status.REJECTED, error=OVERLOADED),
        Result(id="x", capability="", status=Status.SUCCEEDED, policies={"retry/fallback": 1}),
    ],
)
async def test_a_result_of_another_capability_ends_no_task(result: Result) -> None:
    client = Client()
    client.hear(result)
    assert not client.handle.done
    client.hear(succeeded())
    assert (await client.handle.outcome(0)).capability == "a.task"


async def test_a_capability_that_a_fallback_has_run_instead_ends_the_task() -> None:
    client = Client()
    spec = FallbackSpec(capability="a.cheap")
    policies = {FallbackPolicy(name="cheap", spec=spec).key: 2}
    client.hear(Result(id="x", capability="a.cheap", status=Status.SUCCEEDED, policies=policies))
    assert (await client.handle.outcome(0)).capability == "a.cheap"


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
