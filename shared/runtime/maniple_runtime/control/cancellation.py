"""Keeping aiormq from swallowing a cancellation that arrives together with a lost channel.

aiormq runs each call to the broker in a task of its own. When the channel is lost, also when the
broker closes it because a queue does not exist, aiormq cancels that task and raises the loss to the
caller. A caller that is itself cancelled before that task has ended gets the loss instead of its
cancellation (aiormq 7.2.4), handles it, and runs on for ever.
"""

import asyncio
from collections.abc import Generator
from typing import Any

from aiormq.abc import TaskWrapper

_awaited = TaskWrapper.__await__


def hear_cancellations() -> None:
    """Make aiormq pass on every cancellation in this process; idempotent."""
    TaskWrapper.__await__ = _await  # type: ignore[method-assign, assignment]  # there is no other way


def _await(call: TaskWrapper, *_: Any) -> Generator[Any, None, Any]:
    waiting = asyncio.current_task()
    before = waiting.cancelling() if waiting else 0
    try:
        return (yield from _awaited(call))
    except Exception as error:
        if waiting is not None and waiting.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
