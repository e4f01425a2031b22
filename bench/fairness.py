"""What a flood of one capability does to the latency of another one.

    make bench ARGS='--section fairness', or python -m bench.fairness --tasks 200000

An outside program sends 50 tasks a second of one capability, one a message, and counts each from
the moment it was due: while nothing else runs, and while tasks of another capability are submitted
and run. The ratio is that of the two p99. The last line is JSON, in ms.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import handlers
from bench.figures import spread
from bench.handlers import OTHER, SLEEP
from bench.peers import Workers
from bench.sides import Bench, running_bench

from maniple_cli.dev_cluster.cluster import ClusterOptions
from maniple_cli.output import run

TASKS = 200_000
RATE = 50.0
QUIET_SECONDS = 10.0
LEAD = 1.0  # seconds of arrivals before the flood


@dataclass(frozen=True)
class Flood:
    """Who floods, and how: what its client is told."""

    label: str
    client: str
    do: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    """Of the tasks: of those that take time it needs fewer."""


_SLOW = {"capability": SLEEP, "payload": 0.01, "window": 10_000}
FLOODS = (
    Flood("client.map", "sdk", "flat"),
    Flood("client.map, 10 ms each", "sdk", "same", _SLOW, 0.1),
    Flood("an outsider at once, 1,000 a message", "flooder", "unreplied", {"size": 1000}),
    Flood("an outsider at once, one a message", "flooder", "unreplied"),
)


async def measure(step: Callable[[str], None], tasks: int = TASKS) -> dict[str, Any]:
    """Return the latencies of the watched capability without and with each flood, in ms."""
    options = ClusterOptions(agents=2, handlers=(handlers.__name__,))
    found: dict[str, list[dict[str, Any]]] = {}
    async with running_bench(options, ("sdk", "plain", "flooder"), Workers()) as bench:
        await _flooded(bench, FLOODS[0], tasks // 10)
        for flood in FLOODS:
            quiet = await _quiet(bench)
            loud, seconds = await _flooded(bench, flood, int(tasks * flood.share))
            ratio = round(loud["p99"] / quiet["p99"], 2)
            found[flood.label] = [
                {"beside it": "nothing", **quiet},
                {
                    "beside it": "the flood",
                    **loud,
                    "seconds": round(seconds, 1),
                    "p99 to quiet": ratio,
                },
            ]
            said = f"p99 {quiet['p99']} ms, in the flood {loud['p99']} ms, {ratio} times"
            step(f"{flood.label}: {said}")
    return found


async def _quiet(bench: Bench) -> dict[str, float]:
    watcher = bench.clients["plain"]
    await watcher.ask("watch", rate=RATE, capability=OTHER)
    await asyncio.sleep(QUIET_SECONDS)
    return spread([seconds for _, seconds in (await watcher.ask("watched"))["each"]])


async def _flooded(bench: Bench, flood: Flood, tasks: int) -> tuple[dict[str, float], float]:
    """Return the spread of latencies of what was due during a flood, and how long it lasted."""
    watcher = bench.clients["plain"]
    await watcher.ask("watch", rate=RATE, capability=OTHER)
    await asyncio.sleep(LEAD)
    began = time.time()
    await bench.clients[flood.client].ask(flood.do, count=tasks, **flood.fields)
    ended = time.time()
    each = (await watcher.ask("watched"))["each"]
    return spread([seconds for due, seconds in each if began <= due <= ended]), ended - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A flood of one capability beside another one.")
    parser.add_argument("--tasks", type=int, default=TASKS, help="of a flood")
    given = parser.parse_args(sys.argv[1:])
    print(json.dumps(run(measure(lambda said: print(said, flush=True), given.tasks))))


if __name__ == "__main__":
    main()
