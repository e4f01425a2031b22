"""Waiting in tests without sleeping for a guessed time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

POLL = 0.02


async def wait_until(
    condition: Callable[[], bool | Awaitable[bool]], seconds: float = 10.0
) -> None:
    """Return once `condition` (plain or async) holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await _holds(condition):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(POLL)


async def _holds(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    answer = condition()
    return await answer if inspect.isawaitable(answer) else answer
