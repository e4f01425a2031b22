"""`control.requests`: every question gets an answer, and answers go where they may."""

from dataclasses import replace
from typing import Any

import pytest
import structlog

from maniple.errors import BrokerUnavailable, RequestFailed
from maniple_runtime.control.amqp_messages import IncomingMessage
from maniple_runtime.control.messages import Request, Response
from maniple_runtime.control.requests import Asked, Correlation, answer, failed, may_answer

LOG = structlog.get_logger()


async def echo(request: Request) -> dict[str, Any]:
    return request.body


async def refuse(_request: Request) -> dict[str, Any]:
    raise RequestFailed("unknown_agent", "no such agent")


async def crash(_request: Request) -> dict[str, Any]:
    raise KeyError("x")


async def unwritable(_request: Request) -> dict[str, Any]:
    return {"value": object()}


OPERATIONS = {"echo": echo, "refuse": refuse, "crash": crash, "unwritable": unwritable}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"not JSON", "invalid_request"),
        (b'{"op": "nothing"}', "unknown_op"),
        (b'{"op": "refuse"}', "unknown_agent"),
        (b'{"op": "crash"}', "internal"),
        (b'{"op": "unwritable"}', "internal"),
    ],
)
async def test_a_request_that_fails_is_answered_with_its_code(body: bytes, code: str) -> None:
    response = Response.from_json(await answer(OPERATIONS, IncomingMessage(body), LOG))
    assert response.error is not None
    assert response.error.code == code


async def test_a_request_is_answered_with_its_body() -> None:
    question = Request(op="echo", body={"n": 1})
    body = await answer(OPERATIONS, IncomingMessage(question.to_json()), LOG)
    assert Correlation.read(body) == {"n": 1}


QUESTION = Request(op="echo").to_json()
ASKED = IncomingMessage(QUESTION, reply_to="r", correlation_id="1", message_id="m1")


def test_a_request_is_the_same_when_it_comes_again_and_no_other_is() -> None:
    again = replace(ASKED, redelivered=True)
    assert Asked.of_message(ASKED).identity == Asked.of_message(again).identity != ""
    other = Request(op="crash").to_json()
    others = [
        replace(ASKED, message_id="m2"),
        replace(ASKED, reply_to="s"),
        replace(ASKED, correlation_id="2"),
        replace(ASKED, body=other),
    ]
    identities = {Asked.of_message(one).identity for one in [ASKED, *others]}
    assert len(identities) == 5


def test_only_what_may_have_come_before_may_repeat() -> None:
    nameless = replace(ASKED, message_id=None)
    again = replace(nameless, redelivered=True)
    assert Asked.of_message(nameless).identity == Asked.of_message(again).identity != ""
    # The next one of such a sender may have the same correlation id.
    repeats = [Asked.of_message(one).may_repeat for one in (ASKED, nameless, again)]
    assert repeats == [True, False, True]
    assert Asked.of_message(replace(again, correlation_id=None)).identity == ""


def test_nobody_says_in_a_body_which_request_it_is() -> None:
    body = b'{"op": "echo", "_identity": "x", "identity": "x"}'
    assert Asked.of_message(IncomingMessage(body)).identity == ""


@pytest.mark.parametrize(
    ("reply_to", "allowed"),
    [
        (None, False),
        ("", False),
        ("maniple.submit", False),
        ("maniple.lane.text.stats", False),
        ("maniple.replies.cli-1", True),
        ("amq.rabbitmq.reply-to.g1h2", True),
        ("somebodys-queue", True),
    ],
)
def test_no_answer_goes_into_a_queue_of_maniples_own(reply_to: str | None, allowed: bool) -> None:
    assert may_answer(reply_to) is allowed


async def test_answers_find_their_requests_in_any_order() -> None:
    waiting = Correlation()
    one, two = waiting.open_request("1"), waiting.open_request("2")
    assert waiting.settle_request("2", b"two")
    assert waiting.settle_request("1", b"one")
    assert (await one, await two) == (b"one", b"two")
    assert not waiting.settle_request("1", b"again")
    assert len(waiting) == 0


async def test_a_lost_connection_ends_all_waiting() -> None:
    waiting = Correlation()
    future = waiting.open_request("1")
    waiting.fail_all("lost")
    with pytest.raises(BrokerUnavailable, match="lost"):
        await future
    assert len(waiting) == 0


def test_an_error_in_a_response_is_raised_with_its_code() -> None:
    with pytest.raises(RequestFailed) as caught:
        Correlation.read(failed("unknown_op", "no").to_json())
    assert caught.value.code == "unknown_op"
    with pytest.raises(RequestFailed, match="invalid_response"):
        Correlation.read(b"?")
    assert Correlation.read(Response(body={"a": 1}).to_json()) == {"a": 1}
