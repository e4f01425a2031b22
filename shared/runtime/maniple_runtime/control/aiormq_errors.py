"""How the loss of a connection shows in calls of aio-pika and aiormq, and what it means to us."""

import asyncio
import contextlib
from collections.abc import Iterator

from aiormq import exceptions
from aiormq.exceptions import AMQPConnectionError, DeliveryError, PublishError

from maniple.amqp import connection_errors
from maniple.amqp.refusal import refusal
from maniple.amqp.wire.amqp_errors import (
    NOT_ALLOWED,
    AccessRefused,
    AmqpError,
    ConnectionLost,
    ConnectionRefused,
    LoginRefused,
)
from maniple.errors import BrokerRefused, BrokerUnavailable, PublishRefused

# "closed" and ChannelInvalidStateError are RuntimeErrors.
LOST = (*connection_errors.LOST, exceptions.AMQPError, asyncio.InvalidStateError, RuntimeError)


def is_loss(error: BaseException) -> bool:
    """Tell whether an error of these libraries means that a connection or channel is gone.

    aiormq also cancels pending calls on a lost channel, or raises a bare `Exception` from them.
    """
    return connection_errors.is_loss(error) or isinstance(error, LOST) or type(error) is Exception


def wire_error(error: BaseException) -> BaseException:
    """Return what `maniple.amqp` raises for this; the error itself if it has nothing like it."""
    found: AmqpError
    match error:
        case exceptions.ProbableAuthenticationError():
            found = LoginRefused(str(error))
        case exceptions.ChannelAccessRefused():
            found = AccessRefused(str(error), 403)
        case exceptions.ConnectionNotAllowed():
            found = ConnectionRefused(NOT_ALLOWED, str(error))
        case exceptions.ConnectionClosed(args=(int(code), text, *_)):
            found = ConnectionRefused(code, str(text))
        case AMQPConnectionError():
            found = ConnectionLost(str(error))
        case _:
            return error
    found.__cause__ = error.__cause__
    return found


@contextlib.contextmanager
def as_wire_errors() -> Iterator[None]:
    """Raise what `maniple.amqp` would raise."""
    try:
        yield
    except AMQPConnectionError as error:
        found = wire_error(error)
        raise found from found.__cause__
    except exceptions.ChannelAccessRefused as error:
        raise wire_error(error) from error


@contextlib.contextmanager
def translated(exchange: str = "", key: str = "") -> Iterator[None]:
    """Raise `PublishRefused`, `BrokerUnavailable` or `BrokerRefused` for the libraries' errors."""
    try:
        yield
    except PublishError as error:
        raise PublishRefused(exchange, key, unroutable=True) from error
    except DeliveryError as error:
        raise PublishRefused(exchange, key, unroutable=False) from error
    except TimeoutError as error:
        raise BrokerUnavailable(f"RabbitMQ did not confirm {exchange}/{key} in time") from error
    except LOST as error:
        if (refused := refusal(wire_error(error))) is not None:
            raise BrokerRefused(f"RabbitMQ {refused}") from error
        raise BrokerUnavailable(f"the connection to RabbitMQ was lost: {error!r}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # aiormq cancels what waits for a confirm when it loses the channel.
        raise BrokerUnavailable("the connection to RabbitMQ was lost") from error
