"""Neighbours of a flood of long tasks, `python -m system.flood`: how long theirs take, and quiet.

An outsider sends one array of long tasks of one capability; neighbours ask for something short
before, and while all of those run or wait.

    PYTHONPATH=tests/support:tests uv run python -m system.flood --capability flood.block
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from statistics import median, quantiles

from rich.console import Console

from maniple import ResultTimeout, connect
from maniple.client import Client
from maniple.local.cluster import Cluster, ClusterOptions
from outsider import Outsider

NEIGHBOURS = {
    "maniple.sleep": ("maniple.echo", "flood.quick"),
    "flood.sleep": ("maniple.echo", "flood.quick"),
    "flood.block": ("flood.plain",),
}
SETTLES = 3.0  # seconds until everything is where it will stay


@dataclass(frozen=True)
class Flood:
    """What floods, and how it is looked at."""

    capability: str = "flood.sleep"
    tasks: int = 1000
    seconds: float = 120.0
    asks: int = 200
    patience: float = 5.0


@dataclass
class Seen:
    """How long tasks of a neighbour took, in milliseconds, and how many had no answer."""

    median: float
    p99: float
    lost: int


def options() -> ClusterOptions:
    """Return three agents as they are by default, and a dispatcher."""
    return ClusterOptions(agents=3, handlers=("system.flood_handlers",))


async def ask(client: Client, capability: str, flood: Flood) -> Seen:
    """Ask for short tasks, one after the other; one without an answer took all the patience."""
    took, lost = [], 0
    for number in range(flood.asks):
        began = time.perf_counter()
        handle = await client.submit(capability, number)
        try:
            await handle.result(timeout=flood.patience)
        except ResultTimeout:
            lost += 1
        took.append((time.perf_counter() - began) * 1000)
        if lost == 3:
            break
    return Seen(median(took), quantiles(took, n=100)[98], lost)


def send(url: str, flood: Flood) -> None:
    """Publish the flood, as anybody could."""
    payload = {"seconds": flood.seconds} if "maniple" in flood.capability else flood.seconds
    member = {"payload": payload, "ttl": flood.seconds, "timeout": 2 * flood.seconds}
    with Outsider(url) as outsider:
        outsider.send(flood.capability, [member] * flood.tasks)


async def measure(cluster: Cluster, flood: Flood) -> dict[str, tuple[Seen, Seen]]:
    """Return what neighbours saw before a flood and in it."""
    info = cluster.ready_info()
    seen: dict[str, tuple[Seen, Seen]] = {}
    async with connect(info["client_url"]) as client:
        names = NEIGHBOURS[flood.capability]
        for name in names:
            await (await client.submit(name, 0)).result(timeout=30)
        quiet = {name: await ask(client, name, flood) for name in names}
        await asyncio.to_thread(send, info["broker_url"], flood)
        await asyncio.sleep(SETTLES)
        for name in names:
            seen[name] = quiet[name], await ask(client, name, flood)
    return seen


async def run(flood: Flood) -> None:
    """Print what was seen; the last line is JSON."""
    async with Cluster(options()) as cluster:
        seen = await measure(cluster, flood)
    out = Console(width=140, highlight=False).print
    out(f"{flood.tasks:,} x {flood.capability} of {flood.seconds:g} s, in milliseconds")
    for name, (quiet, beside) in seen.items():
        out(
            f"{name}: median {quiet.median:.1f} quiet, {beside.median:.1f} beside the flood "
            f"({beside.median / quiet.median:.1f} times); p99 {quiet.p99:.1f}, {beside.p99:.1f} "
            f"({beside.p99 / quiet.p99:.1f} times); without an answer {beside.lost}"
        )
    sys.stdout.write(
        json.dumps({name: [asdict(one) for one in pair] for name, pair in seen.items()}) + "\n"
    )


def main() -> None:
    """Read the command line, flood, print."""
    parser = argparse.ArgumentParser(prog="python -m system.flood", description=__doc__)
    parser.add_argument("--capability", choices=list(NEIGHBOURS), default=Flood.capability)
    parser.add_argument("--tasks", type=int, default=Flood.tasks)
    parser.add_argument("--seconds", type=float, default=Flood.seconds)
    parser.add_argument("--asks", type=int, default=Flood.asks)
    asyncio.run(run(Flood(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
