"""How the loss of a connection shows in the calls that use it."""

import asyncio

from maniple.amqp.wire.amqp_errors import AmqpError

LOST = (AmqpError, OSError)
"""What is raised when a connection or channel is gone, or cannot be had."""


def is_loss(error: BaseException) -> bool:
    """Tell whether an error means that a connection or channel is gone.

    So does the cancellation of a call that nobody has asked for: of a task that ended with it.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()
    return isinstance(error, LOST)
