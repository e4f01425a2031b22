"""Waiting in tests without sleeping for a guessed time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

POLL = 0.02


async def wait_until(
    condition: Callable[[], bool | Awaitable[bool]], seconds: float = 10.0, *, every: float = POLL
) -> None:
    """Return once `condition` (plain or async) holds; fails after `seconds`.

    It is looked at `every` so many seconds, seldom if a look is costly.
    """
    deadline = time.monotonic() + seconds
    while not await _holds(condition):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(every)


async def _holds(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    answer = condition()
    return await answer if inspect.isawaitable(answer) else answer
