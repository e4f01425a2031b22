"""As many capabilities as `BENCH_CAPABILITIES` says, none of which does anything."""

import os
from typing import Any

from maniple import task

COUNT_VARIABLE = "BENCH_CAPABILITIES"


def names(count: int) -> list[str]:
    """Return the names of so many capabilities."""
    return [f"bench.many.n{number}" for number in range(count)]


async def _noop(payload: Any) -> Any:
    return payload


def _make(name: str) -> Any:
    async def noop(payload: Any) -> Any:
        return await _noop(payload)

    return task(name)(noop)


globals().update(
    {
        f"noop_{n}": _make(name)
        for n, name in enumerate(names(int(os.environ.get(COUNT_VARIABLE, "0"))))
    }
)
