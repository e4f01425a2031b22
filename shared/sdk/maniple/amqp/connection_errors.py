"""How the loss of a connection shows in the calls that use it."""

import asyncio
import contextlib
from collections.abc import Iterator

import aiormq
from aiormq.exceptions import DeliveryError, PublishError

from maniple.amqp.refusal import refusal
from maniple.errors import BrokerRefused, BrokerUnavailable, PublishRefused

# What aiormq raises when a connection or channel is gone; "closed" and ChannelInvalidStateError are
# RuntimeErrors. See `is_loss` for what it does besides.
LOST = (
    aiormq.exceptions.AMQPError,
    OSError,
    asyncio.InvalidStateError,
    RuntimeError,
)


def is_loss(error: BaseException) -> bool:
    """Tell whether an error means that a connection or channel is gone.

    aiormq also cancels pending calls on a lost channel, or raises a bare `Exception` from them.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return isinstance(error, LOST) or type(error) is Exception


@contextlib.contextmanager
def translated(exchange: str = "", key: str = "") -> Iterator[None]:
    """Raise `PublishRefused`, `BrokerUnavailable` or `BrokerRefused` for the library's errors."""
    try:
        yield
    except PublishError as error:
        raise PublishRefused(exchange, key, unroutable=True) from error
    except DeliveryError as error:
        raise PublishRefused(exchange, key, unroutable=False) from error
    except TimeoutError as error:
        raise BrokerUnavailable(f"RabbitMQ did not confirm {exchange}/{key} in time") from error
    except LOST as error:
        if (refused := refusal(error)) is not None:
            raise BrokerRefused(f"RabbitMQ {refused}") from error
        raise BrokerUnavailable(f"the connection to RabbitMQ was lost: {error!r}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # aiormq cancels what waits for a confirm when it loses the channel.
        raise BrokerUnavailable("the connection to RabbitMQ was lost") from error
