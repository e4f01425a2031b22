"""Python's garbage collector in a process that passes messages on.

Objects in flight come and go by the thousand, and leave no cycles. With Python's own thresholds
each swing of a few hundred starts a collection, which finds nothing and makes what is in flight
older, until collections of everything find nothing either: a third of a busy dispatcher's time.
"""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

THRESHOLDS = (20_000, 20, 100)
"""See `gc.set_threshold`: objects more than at the last collection, and how many collections of
each generation come before one of the next."""

R = TypeVar("R")


def tune_collector() -> None:
    """Collect seldom, and never what is imported; before handlers are: they may have it otherwise.

    It is for the whole process, so only for one that is ours.
    """
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def frozen_once_built(
    build: Callable[[R], AbstractAsyncContextManager[None]],
) -> Callable[[R], AbstractAsyncContextManager[None]]:
    """Keep out of collections what `build` has made as well: it stays as long as the process."""

    @asynccontextmanager
    async def built(runtime: R) -> AsyncIterator[None]:
        async with build(runtime):
            gc.collect()  # what is frozen is never collected
            gc.freeze()
            yield

    return built
