"""The handlers that the benchmarks run: some do nothing, some wait, two only use the processor."""

import asyncio
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

from bench.tally import TALLY_VARIABLE, Tally

from maniple import task

CAPABILITY = "bench.noop"
OTHER = "bench.other"
COUNTED = "bench.counted"
SLEEP = "bench.sleep"
BURN = "bench.burn"
BURN_IN_THREAD = "bench.burn_in_thread"
SPIN = "bench.spin"
ROUNDS_A_SECOND = 30_000_000  # about what one core adds up in a second


def burnt(rounds: int) -> int:
    """Return what burning `rounds` gives."""
    return rounds * (rounds - 1) // 2


def _add_up(rounds: int) -> int:
    total = 0
    for number in range(rounds):
        total += number
    return total


@cache
def _tally() -> Tally:
    return Tally(Path(os.environ[TALLY_VARIABLE]))


@task(CAPABILITY)
async def noop(payload: Any) -> Any:
    """Return the payload."""
    return payload


@task(OTHER)
async def other(payload: Any) -> Any:
    """Return the payload: what somebody else wants while the others are flooded."""
    return payload


@task(COUNTED)
async def counted(payload: Any) -> None:  # noqa: ARG001 - as large a task as the peers'
    """Count that it ran, as the peers without results do."""
    _tally().add()


@task(SLEEP)
async def sleep(payload: float) -> float:
    """Wait for so many seconds."""
    await asyncio.sleep(payload)
    return payload


@task(BURN, executor="process")
def burn(payload: int) -> int:
    """Add up numbers in a worker process."""
    return _add_up(payload)


@task(BURN_IN_THREAD)
def burn_in_thread(payload: int) -> int:
    """Add up numbers in a thread of the agent."""
    return _add_up(payload)


@task(SPIN, executor="process")
def spin(payload: float) -> float:
    """Use so many seconds of processor time in a worker process, and return how many it was."""
    began = time.process_time()
    while (used := time.process_time() - began) < payload:
        _add_up(1000)
    return used
