"""How long a task takes from end to end while tasks arrive at a fixed rate.

    python -m bench.latency --open-loop 200 --open-loop 12000
    python -m bench.latency --stages --open-loop 200

Tasks are due at fixed moments, whether or not earlier ones have ended, and a latency counts from
the moment a task was due: a cluster that falls behind shows it. `--stages` tells where the time
goes. The last line is JSON, in ms.
"""

import argparse
import json
import sys
from typing import Any

from bench import handlers, stages
from bench.maniple_side import at_rate
from bench.tables import aligned

from maniple.client import connect
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.output import run

WARM_UP_SECONDS = 3.0


async def _run(rates: list[float], seconds: float, agents: int) -> list[dict[str, Any]]:
    measured = []
    async with (
        Cluster(ClusterOptions(agents=agents, handlers=(handlers.__name__,))) as cluster,
        connect(cluster.ready_info()["client_url"]) as client,
    ):
        for rate in rates:
            await at_rate(client, rate, WARM_UP_SECONDS)
            measured.append(await at_rate(client, rate, seconds))
            print(measured[-1], flush=True)
    return measured


async def _stages(rates: list[float], seconds: float, agents: int) -> dict[str, Any]:
    found = {}
    for rate in rates:
        found[f"{rate:g}"] = await stages.measure(rate, seconds, agents)
        head = [f"at {rate:,g}/s, ms", *next(iter(found[f"{rate:g}"].values()))]
        body = [[name, *map(str, one.values())] for name, one in found[f"{rate:g}"].items()]
        print(aligned(head, body), flush=True)
    return found


def main() -> None:
    """Measure at each rate given and print the figures."""
    parser = argparse.ArgumentParser(description="Latency from end to end at a fixed rate.")
    parser.add_argument("--open-loop", type=float, action="append", metavar="TASKS_PER_SECOND")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--stages", action="store_true", help="where the time goes")
    given = parser.parse_args(sys.argv[1:])
    rates = given.open_loop or [200.0, 12_000.0]
    print(f"1 dispatcher, {given.agents} agents, {given.seconds:g} s at each rate", flush=True)
    measure = _stages if given.stages else _run
    print(json.dumps(run(measure(rates, given.seconds, given.agents))))


if __name__ == "__main__":
    main()
