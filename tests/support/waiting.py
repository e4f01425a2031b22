"""Waiting in tests without sleeping for a guessed time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

POLL = 0.02
PATIENCE = 3.0  # times as long as it takes on a machine that does nothing else

Condition = Callable[[], bool | Awaitable[bool]]


async def wait_until(condition: Condition, seconds: float = 10.0, *, every: float = POLL) -> None:
    """Return once `condition` (plain or async) holds.

    What holds within `seconds` on an idle machine has three times as long before this fails. It is
    checked `every` so many seconds, seldom if a check is costly.
    """
    await hold_within(condition, PATIENCE * seconds, every=every)


async def hold_within(condition: Condition, seconds: float, *, every: float = POLL) -> None:
    """Return once `condition` holds; fails after `seconds`, which are part of what is claimed."""
    deadline = time.monotonic() + seconds
    while not await _holds(condition):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(every)


async def _holds(condition: Condition) -> bool:
    answer = condition()
    return await answer if inspect.isawaitable(answer) else answer
