"""What is told apart: what a broker refuses for good, and what may be otherwise the next time."""

import pytest
from aiormq.exceptions import (
    AMQPConnectionError,
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionClosed,
    ConnectionNotAllowed,
    ProbableAuthenticationError,
)

from maniple.amqp.connection_errors import translated
from maniple.amqp.refusal import check_published, refusal
from maniple.amqp.supervision import TooFewChannels, is_hopeless
from maniple.errors import BrokerRefused, BrokerUnavailable

TOPIC = "ACCESS_REFUSED - access to topic 'a.b' in exchange 'maniple.tasks' in vhost 'dev' refused"
EXCHANGE = "ACCESS_REFUSED - write access to exchange 'maniple.tasks' in vhost 'dev' refused"
LARGE = "PRECONDITION_FAILED - message size 500086 is larger than configured max size 100000"

FOR_GOOD = [
    ProbableAuthenticationError("ACCESS_REFUSED - Login was refused"),
    ConnectionClosed(530, "NOT_ALLOWED - vhost nowhere not found"),
    ConnectionNotAllowed("NOT_ALLOWED - access to vhost 'dev' refused for user 'limit (1)'"),
    ChannelAccessRefused(EXCHANGE),
]
NOT_FOR_GOOD = [
    ConnectionClosed(
        530, "NOT_ALLOWED - access to vhost 'd' refused: connection limit (1) is reached"
    ),
    ConnectionClosed(541, "INTERNAL_ERROR - access to vhost 'dev' refused: vhost 'dev' is down"),
    ConnectionClosed(320, "CONNECTION_FORCED - broker forced connection closure"),
    ChannelNotFoundEntity("NOT_FOUND - no exchange 'maniple.tasks' in vhost 'dev'"),
    ChannelLockedResource("RESOURCE_LOCKED - cannot obtain exclusive access"),
    AMQPConnectionError(111, "Connection refused"),
    ConnectionResetError(104, "Connection reset by peer"),
    TimeoutError(),
]


@pytest.mark.parametrize("error", FOR_GOOD, ids=repr)
def test_a_refusal_for_good_is_told_in_the_brokers_words(error: Exception) -> None:
    said = refusal(error)
    assert said is not None
    assert str(error.args[-1]) in said
    assert is_hopeless(error)
    with pytest.raises(BrokerRefused), translated():
        raise error


@pytest.mark.parametrize("error", NOT_FOR_GOOD, ids=repr)
def test_what_may_be_otherwise_the_next_time_is_no_refusal(error: Exception) -> None:
    assert refusal(error) is None
    assert not is_hopeless(error)
    with pytest.raises(BrokerUnavailable) as caught, translated():
        raise error
    assert not isinstance(caught.value, BrokerRefused)


def test_too_few_channels_are_hopeless_too() -> None:
    assert is_hopeless(TooFewChannels("8"))


@pytest.mark.parametrize(
    ("error", "key", "size"),
    [
        (ChannelAccessRefused(EXCHANGE), "any", 1),
        (ChannelAccessRefused(EXCHANGE.replace("write ", "")), "any", 1),  # until RabbitMQ 3.11
        (ChannelAccessRefused(TOPIC), "a.b", 1),
        (ChannelPreconditionFailed(LARGE), "any", 500_086),
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
        (ChannelAccessRefused(EXCHANGE), "maniple.events", "any", 1),
        (ChannelAccessRefused(TOPIC), "maniple.tasks", "a.c", 1),
        (ChannelPreconditionFailed(LARGE), "maniple.tasks", "any", 500_085),
        (ChannelNotFoundEntity(EXCHANGE), "maniple.tasks", "any", 1),
        (None, "maniple.tasks", "any", 1),
    ],
)
def test_what_was_only_beside_it_is_sent_again(
    error: Exception | None, exchange: str, key: str, size: int
) -> None:
    check_published(error, exchange, key, size)
