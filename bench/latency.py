"""How long a task takes from end to end while tasks arrive at a fixed rate.

    python -m bench.latency --open-loop 200 --open-loop 12000

Tasks are due at fixed moments, whether or not earlier ones have ended, and a latency counts from
the moment a task was due: a cluster that falls behind shows it. The last line is JSON, in ms.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from statistics import quantiles

from bench import handlers
from bench.handlers import CAPABILITY

from maniple.client import Client, connect
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.output import run

TICK = 0.0005
WARM_UP_SECONDS = 3.0
# Beyond this many tasks under way the cluster has lost; the arrivals then wait.
WINDOW = 100_000


class Arrivals:
    """Tasks due at `rate` a second for `seconds`; each one's payload is its number."""

    def __init__(self, rate: float, seconds: float) -> None:
        self._rate = rate
        self._count = int(rate * seconds)
        self._started = 0.0

    def due(self, number: int) -> float:
        """Return when a task was due, as `time.perf_counter` tells it."""
        return self._started + number / self._rate

    async def __aiter__(self) -> AsyncIterator[int]:
        """Iterate over the numbers, each not before it is due."""
        self._started = time.perf_counter()
        for number in range(self._count):
            if (early := self.due(number) - time.perf_counter()) > 0:
                await asyncio.sleep(max(early, TICK))
            yield number


async def measure(client: Client, rate: float, seconds: float) -> dict[str, float]:
    """Return percentiles of the latency in milliseconds, and the rate of the results."""
    arrivals = Arrivals(rate, seconds)
    latencies = []
    last = 0.0
    async for number in client.map(CAPABILITY, arrivals, window=WINDOW, ordered=False):
        last = time.perf_counter()
        latencies.append((last - arrivals.due(number)) * 1e3)
    cuts = quantiles(latencies, n=1000)
    return {
        "rate": rate,
        "achieved": round(len(latencies) / (last - arrivals.due(0)), 1),
        "p50": round(cuts[499], 2),
        "p99": round(cuts[989], 2),
        "p99.9": round(cuts[998], 2),
        "max": round(max(latencies), 2),
    }


async def _run(rates: list[float], seconds: float, agents: int) -> list[dict[str, float]]:
    measured = []
    async with (
        Cluster(ClusterOptions(agents=agents, handlers=(handlers.__name__,))) as cluster,
        connect(cluster.ready_info()["client_url"]) as client,
    ):
        for rate in rates:
            await measure(client, rate, WARM_UP_SECONDS)
            measured.append(await measure(client, rate, seconds))
            print(measured[-1], flush=True)
    return measured


def main() -> None:
    """Measure at each rate given and print the figures."""
    parser = argparse.ArgumentParser(description="Latency from end to end at a fixed rate.")
    parser.add_argument("--open-loop", type=float, action="append", metavar="TASKS_PER_SECOND")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--agents", type=int, default=2)
    given = parser.parse_args(sys.argv[1:])
    rates = given.open_loop or [200.0, 12_000.0]
    print(f"1 dispatcher, {given.agents} agents, {given.seconds:g} s at each rate", flush=True)
    print(json.dumps(run(_run(rates, given.seconds, given.agents))))


if __name__ == "__main__":
    main()
