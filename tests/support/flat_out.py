"""The throughput of the machine, for tests at a rate: an overloaded machine proves nothing."""

import time

from maniple.client import Client

ROUNDS = 3  # bundles have their size from the second on


async def carried(client: Client, capability: str, count: int) -> float:
    """Return how many tasks a second a cluster completes at full load, once it has warmed up."""
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        async for _ in client.map(capability, range(count), ordered=False):
            pass
    return count / (time.perf_counter() - begun)
