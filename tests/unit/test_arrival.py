"""How a submission that was taken before is known: by the broker, or by its sender's word."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from ingress_with_fakes import Ingress
from maniple.amqp import Outgoing
from maniple.client.carrier import AmqpCarrier
from maniple.client.core import Client
from maniple.client.handle import OutstandingHandles
from maniple.errors import BrokerUnavailable, ErrorCode, InvalidMessage
from maniple.identifiers import is_refusal
from maniple.messages import REPEATED_HEADER, Envelope
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_policies import Resolved
from maniple_runtime.publish.confirm import Settlement
from started_in_tasks import StartedInTasks
from work_with_fakes import NOW


@pytest.mark.parametrize(
    ("properties", "before"),
    [
        ({}, Redelivery.UNKNOWN),
        ({"headers": {REPEATED_HEADER: "false"}}, Redelivery.UNKNOWN),
        ({"headers": {REPEATED_HEADER: "true"}}, Redelivery.SAID),
        ({"redelivered": True}, Redelivery.DELIVERED),
        ({"redelivered": True, "headers": {REPEATED_HEADER: "true"}}, Redelivery.BOTH),
    ],
)
async def test_a_dispatcher_knows_what_may_have_been_admitted(
    properties: dict[str, Any], before: Redelivery
) -> None:
    ingress = Ingress()
    await ingress.take([{"id": "a"}, {"id": "b"}], **properties)
    assert (ingress.admitted, ingress.before) == (["a", "b"], before)


@pytest.mark.parametrize(
    ("properties", "looked_up"),
    [
        ({}, []),
        ({"headers": {REPEATED_HEADER: "true"}}, []),
        ({"redelivered": True}, ["t"]),
        ({"redelivered": True, "headers": {REPEATED_HEADER: "true"}}, ["t"]),
    ],
)
async def test_only_what_a_dispatcher_had_is_looked_up_before_it_goes_on(
    properties: dict[str, Any], looked_up: list[str]
) -> None:
    ingress, seen = Ingress(), list[str]()

    def again(
        envelope: Envelope, resolved: Resolved, source: Settlement, before: Redelivery
    ) -> None:
        seen.append(envelope.id)
        ingress.onward(envelope, resolved, source, before)

    ingress.submissions._again = again
    await ingress.take({"id": "t"}, **properties)
    assert (seen, ingress.admitted) == (looked_up, ["t"])


@pytest.mark.parametrize(
    ("properties", "admitted"),
    [({}, []), ({"headers": {REPEATED_HEADER: "true"}}, ["t"]), ({"redelivered": True}, ["t"])],
)
async def test_what_may_have_been_admitted_is_not_refused_for_what_is_known_of_a_node_now(
    properties: dict[str, Any], admitted: list[str]
) -> None:
    def check(_: str) -> None:
        raise InvalidMessage(ErrorCode.FORBIDDEN, "of no node")

    ingress = Ingress()
    ingress.submissions._check_address = check
    await ingress.take({"id": "t"}, **properties)
    assert ingress.admitted == admitted


@pytest.mark.parametrize(
    ("properties", "ended"),
    [
        ({}, "refused"),
        ({"timestamp": NOW - timedelta(minutes=1)}, "expired"),
        ({"redelivered": True}, "expired"),
        ({"headers": {REPEATED_HEADER: "true"}}, "refused"),
    ],
    ids=str,
)
async def test_a_deadline_that_passed_on_the_way_ends_the_task_and_not_a_refusal(
    properties: dict[str, Any], ended: str
) -> None:
    ingress, past = Ingress(), NOW - timedelta(seconds=5)
    await ingress.take([{"id": "x", "deadline": past.isoformat()}, {"id": "y"}], **properties)
    assert ingress.admitted == (["x", "y"] if ended == "expired" else ["y"])
    assert [is_refusal(one.id) for one in ingress.recorded] == [True] * (ended == "refused")


class Broker(StartedInTasks):
    """In place of a publisher: confirms, or not, and keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[Outgoing] = []
        self.error: Exception | None = None

    async def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        del timeout
        self.given.append(message)
        if self.error is not None:
            raise self.error


class Submitting:
    """A client with a broker that the tests decide for."""

    def __init__(self) -> None:
        outstanding = OutstandingHandles()
        carrier = AmqpCarrier("amqp://nowhere", outstanding, None)
        self.broker = Broker()
        carrier._publisher = self.broker  # type: ignore[assignment]
        self.client = Client(carrier, outstanding, tenant="default")

    @property
    def headers(self) -> list[Any]:
        return [message.properties().headers for message in self.broker.given]


async def test_a_client_says_so_when_it_sends_again_what_was_not_confirmed() -> None:
    submitting = Submitting()
    await submitting.client.submit("a.task")
    (message,) = submitting.broker.given
    assert message.properties().headers is None
    assert message.properties(repeated=True).headers == {REPEATED_HEADER: "true"}


async def test_a_task_that_is_submitted_again_travels_with_none_that_is_new() -> None:
    submitting = Submitting()
    submitting.broker.error = BrokerUnavailable("no confirm")
    with pytest.raises(BrokerUnavailable):
        await submitting.client.submit("a.task", id="x")
    submitting.broker.error = None
    submitting.broker.given.clear()
    submissions: list[Callable[[], Any]] = [
        lambda: submitting.client.submit("a.task", id="x", repeated=True),
        lambda: submitting.client.submit("a.task", id="new"),
    ]
    await asyncio.gather(*(submit() for submit in submissions))
    told = {
        b'"x"' in message.body: (message.properties().headers or {}).get(REPEATED_HEADER)
        for message in submitting.broker.given
    }
    assert told == {True: "true", False: None}
