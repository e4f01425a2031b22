"""What goes on, or stands still, for as long as a block lasts."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any


@contextmanager
def held(*pids: int) -> Iterator[None]:
    """Hold processes where they are."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have work go on beside the block; how it ends is nobody's concern."""
    going = asyncio.create_task(work)
    try:
        yield
    finally:
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
