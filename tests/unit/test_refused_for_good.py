"""What is told apart: what a broker refuses for good, and what may be otherwise the next time."""

import ssl
from types import SimpleNamespace
from typing import Any

import pytest
from aiormq import exceptions
from pamqp import commands

from maniple.amqp.refusal import check_published, refusal
from maniple.amqp.supervision import TooFewChannels, is_hopeless
from maniple.amqp.wire.amqp_errors import (
    AccessRefused,
    ConnectionLost,
    ConnectionRefused,
    LoginRefused,
    NotFound,
    PreconditionFailed,
    channel_closed,
)
from maniple.errors import BrokerRefused, BrokerUnavailable, PublishRefused
from maniple_runtime.control.aiormq_errors import as_wire_errors, translated, wire_error

TOPIC = "ACCESS_REFUSED - access to topic 'a.b' in exchange 'maniple.tasks' in vhost 'dev' refused"
EXCHANGE = "ACCESS_REFUSED - write access to exchange 'maniple.tasks' in vhost 'dev' refused"
LARGE = "PRECONDITION_FAILED - message size 500086 is larger than configured max size 100000"
LOGIN = "ACCESS_REFUSED - Login was refused"
NOWHERE = "NOT_ALLOWED - vhost nowhere not found"
NOT_YOURS = "NOT_ALLOWED - access to vhost 'dev' refused for user 'limit (1)'"
FULL = "NOT_ALLOWED - access to vhost 'd' refused: connection limit (1) is reached"
DOWN = "INTERNAL_ERROR - access to vhost 'dev' refused: vhost 'dev' is down"
FORCED = "CONNECTION_FORCED - broker forced connection closure"
NO_EXCHANGE = "NOT_FOUND - no exchange 'maniple.tasks' in vhost 'dev'"
LOCKED = "RESOURCE_LOCKED - cannot obtain exclusive access"

FOR_GOOD = [
    (LoginRefused(LOGIN), LOGIN),
    (ConnectionRefused(530, NOWHERE), NOWHERE),
    (ConnectionRefused(530, NOT_YOURS), NOT_YOURS),
    (channel_closed(403, EXCHANGE), EXCHANGE),
]
NOT_FOR_GOOD = [
    ConnectionRefused(530, FULL),
    ConnectionRefused(541, DOWN),
    ConnectionRefused(320, FORCED),
    channel_closed(404, NO_EXCHANGE),
    channel_closed(405, LOCKED),
    ConnectionLost("Connection refused"),
    ConnectionResetError(104, "Connection reset by peer"),
    TimeoutError(),
]
# What the control plane's libraries raise, the same in the same order.
THEIRS_FOR_GOOD = [
    (exceptions.ProbableAuthenticationError(LOGIN), LOGIN),
    (exceptions.ConnectionClosed(530, NOWHERE), NOWHERE),
    (exceptions.ConnectionNotAllowed(NOT_YOURS), NOT_YOURS),
    (exceptions.ChannelAccessRefused(EXCHANGE), EXCHANGE),
]
THEIRS_NOT_FOR_GOOD = [
    exceptions.ConnectionClosed(530, FULL),
    exceptions.ConnectionClosed(541, DOWN),
    exceptions.ConnectionClosed(320, FORCED),
    exceptions.ChannelNotFoundEntity(NO_EXCHANGE),
    exceptions.ChannelLockedResource(LOCKED),
    exceptions.AMQPConnectionError(111, "Connection refused"),
    ConnectionResetError(104, "Connection reset by peer"),
    TimeoutError(),
]


@pytest.mark.parametrize(("error", "words"), FOR_GOOD, ids=repr)
def test_a_refusal_for_good_is_told_in_the_brokers_words(error: Exception, words: str) -> None:
    said = refusal(error)
    assert said is not None
    assert words in said
    assert is_hopeless(error)


@pytest.mark.parametrize("error", NOT_FOR_GOOD, ids=repr)
def test_what_may_be_otherwise_the_next_time_is_no_refusal(error: Exception) -> None:
    assert refusal(error) is None
    assert not is_hopeless(error)


@pytest.mark.parametrize(("error", "words"), THEIRS_FOR_GOOD, ids=repr)
def test_a_refusal_for_good_is_one_on_the_control_plane_too(error: Exception, words: str) -> None:
    said = refusal(wire_error(error))
    assert said is not None
    assert words in said
    assert is_hopeless(wire_error(error))
    with pytest.raises(BrokerRefused) as caught, translated():
        raise error
    assert words in str(caught.value)


@pytest.mark.parametrize("error", THEIRS_NOT_FOR_GOOD, ids=repr)
def test_what_is_no_refusal_is_none_on_the_control_plane_either(error: Exception) -> None:
    assert not is_hopeless(wire_error(error))
    with pytest.raises(BrokerUnavailable) as caught, translated():
        raise error
    assert not isinstance(caught.value, BrokerRefused)


def test_what_is_wrong_with_tls_on_the_control_plane_is_known_by_its_cause() -> None:
    theirs = exceptions.AMQPConnectionError("no")
    theirs.__cause__ = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    theirs.__cause__.reason = "WRONG_VERSION_NUMBER"
    with pytest.raises(ConnectionLost) as caught, as_wire_errors():
        raise theirs
    assert "does not speak TLS" in str(refusal(caught.value))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (exceptions.ProbableAuthenticationError(LOGIN), LoginRefused),
        (exceptions.ConnectionClosed(541, DOWN), ConnectionRefused),
        (exceptions.ChannelAccessRefused(EXCHANGE), AccessRefused),
    ],
    ids=repr,
)
def test_supervision_gets_the_errors_that_it_knows(
    theirs: Exception, ours: type[Exception]
) -> None:
    with pytest.raises(ours), as_wire_errors():
        raise theirs


def test_what_a_queue_refuses_and_what_no_queue_gets_is_told_apart_on_the_control_plane() -> None:
    returned: Any = SimpleNamespace(delivery=commands.Basic.Return(312, "NO_ROUTE", "", "absent"))
    for error, unroutable in (
        (exceptions.PublishError(returned, returned.delivery), True),
        (exceptions.DeliveryError(None, None), False),  # type: ignore[arg-type]
    ):
        with pytest.raises(PublishRefused) as caught, translated("an.exchange", "a.key"):
            raise error
        assert caught.value.unroutable == unroutable


def test_too_few_channels_are_hopeless_too() -> None:
    assert is_hopeless(TooFewChannels("8"))


@pytest.mark.parametrize(
    ("error", "key", "size"),
    [
        (AccessRefused(EXCHANGE, 403), "any", 1),
        (AccessRefused(EXCHANGE.replace("write ", ""), 403), "any", 1),  # until RabbitMQ 3.11
        (AccessRefused(TOPIC, 403), "a.b", 1),
        (PreconditionFailed(LARGE, 406), "any", 500_086),
    ],
)
def test_who_published_what_a_channel_was_closed_for_is_told(
    error: Exception, key: str, size: int
) -> None:
    with pytest.raises(BrokerRefused):
        check_published(error, "maniple.tasks", key, size)


@pytest.mark.parametrize(
    ("error", "exchange", "key", "size"),
    [
        (AccessRefused(EXCHANGE, 403), "maniple.events", "any", 1),
        (AccessRefused(TOPIC, 403), "maniple.tasks", "a.c", 1),
        (PreconditionFailed(LARGE, 406), "maniple.tasks", "any", 500_085),
        (NotFound(EXCHANGE, 404), "maniple.tasks", "any", 1),
        (None, "maniple.tasks", "any", 1),
    ],
)
def test_what_was_only_beside_it_is_sent_again(
    error: Exception | None, exchange: str, key: str, size: int
) -> None:
    check_published(error, exchange, key, size)
