"""Tasks and threads of an event loop, with workarounds for defects of asyncio.

In Python 3.11 `asyncio.wait_for` swallows the cancellation of its caller when the awaited task ends
at the same moment, so that the caller runs on for ever; we use `asyncio.timeout`.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

REPEAT = 1.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


def left_alone(task: asyncio.Task[T]) -> asyncio.Task[T]:
    """Silence the error of a task that nobody awaits any more; return the task."""

    def look(done: asyncio.Task[T]) -> None:
        if not done.cancelled():
            done.exception()

    task.add_done_callback(look)
    return task


async def in_thread_alone(work: Callable[[], T], name: str) -> T:
    """Run work in a thread of its own, which delays neither a cancelled caller nor the exit.

    So it must hold no lock that the interpreter takes at exit, such as a buffered file's.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]  # None only beside an error
        else:
            answer.set_exception(error)

    def in_thread() -> None:
        result, problem = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed to the waiting coroutine
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=in_thread, name=name, daemon=True).start()
    return await answer


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, repeatedly where a library swallows that, and return when all have ended.

    A caller that is cancelled itself stops waiting.
    """
    going = {task for task in tasks if not task.done()}
    while going:
        for task in going:
            task.cancel()
        _, going = await asyncio.wait(going, timeout=REPEAT)


async def end(task: asyncio.Task[Any]) -> None:
    """Do as `cancel`, and log the errors that the tasks ended with."""
    await cancel([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s had failed", task.get_name(), exc_info=error)
