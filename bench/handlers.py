"""The handlers that the benchmarks run: one does nothing, two only use the processor."""

from maniple import task

CAPABILITY = "bench.noop"
BURN = "bench.burn"
BURN_IN_THREAD = "bench.burn_in_thread"
ROUNDS_A_SECOND = 30_000_000  # about what one core adds up in a second


def burnt(rounds: int) -> int:
    """Return what burning `rounds` gives."""
    return rounds * (rounds - 1) // 2


def _add_up(rounds: int) -> int:
    total = 0
    for number in range(rounds):
        total += number
    return total


@task(CAPABILITY)
async def noop(payload: int) -> int:
    """Return the payload."""
    return payload


@task(BURN, executor="process")
def burn(payload: int) -> int:
    """Add up numbers in a worker process."""
    return _add_up(payload)


@task(BURN_IN_THREAD)
def burn_in_thread(payload: int) -> int:
    """Add up numbers in a thread of the agent."""
    return _add_up(payload)
