"""The event loop that our programs run on, and what asyncio gets wrong.

In Python 3.11 `asyncio.wait_for` swallows the cancellation of its caller when what it waits for
ends at the same moment, so that the caller goes on for ever; we use `asyncio.timeout`.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, TypeVar

REPEAT = 1.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop: uvloop's where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - absent on Windows
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def left_alone(task: asyncio.Task[T]) -> asyncio.Task[T]:
    """Have nobody told of an error that nobody waits for any more; return the task."""

    def look(done: asyncio.Task[T]) -> None:
        if not done.cancelled():
            done.exception()

    task.add_done_callback(look)
    return task


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, again where a library has swallowed that, and return when all have ended.

    A caller that is cancelled itself stops waiting.
    """
    going = {task for task in tasks if not task.done()}
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=REPEAT)


async def end(task: asyncio.Task[Any]) -> None:
    """Do as `cancel`, and log what the task had died of."""
    await cancel([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s had died", task.get_name(), exc_info=error)
