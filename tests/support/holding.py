"""Processes that stand still, or work that runs, for the time of a block."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any


@contextmanager
def held(*pids: int) -> Iterator[None]:
    """Stop processes for the time of the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run work beside the block; how it ends does not matter."""
    going = asyncio.create_task(work)
    try:
        yield
    finally:
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
