"""Waiting in tests without sleeping for a guessed time."""

import asyncio
import time
from collections.abc import Callable

POLL = 0.02


async def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return once `condition` holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(POLL)
