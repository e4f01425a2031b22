"""The event loop that our programs run on, and what asyncio gets wrong.

In Python 3.11 `asyncio.wait_for` swallows the cancellation of its caller when what it waits for
ends at the same moment, so that the caller goes on for ever; we use `asyncio.timeout`.
"""

import asyncio
import logging
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


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task, again where a library has swallowed that, and return when it has ended.

    What it had died of is logged. A caller that is cancelled itself stops waiting.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=REPEAT)
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s had died", task.get_name(), exc_info=error)
