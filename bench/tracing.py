"""What tracing costs: the same tasks without it, with it and none sampled, and with 1 % sampled.

    python -m bench.tracing

Three clusters on one broker would share it unevenly, so each has its own, one is loaded at a time,
and they take turns: a round's ratio is of runs that follow each other. The spans go to an endpoint
that reads and drops them. Beside the rates stands the processor time that dispatcher and agents
took for a task: on a machine that does other things as well, that is what can still be compared.
The last line is JSON. Compare ratios, not rates.
"""

import argparse
import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from statistics import median

from bench import handlers
from bench.maniple_side import map_all

from maniple.client import Client, connect
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.dev_cluster.http import fetch

WARM_UP_ROUNDS = 3
PAUSE = 0.5
OFF = "off"
BOUNDS = {"unsampled": 0.98, "sampled 1 %": 0.97}
_SPENT = re.compile(r"^process_cpu_seconds_total (\S+)$", re.MULTILINE)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read what is posted and answer that it was taken."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            (size,) = (
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            await reader.readexactly(size)
            writer.write(OK)
            await writer.drain()
    writer.close()


def _sides(endpoint: str) -> dict[str, Mapping[str, Mapping[str, str]]]:
    to = {"MANIPLE_OTLP_ENDPOINT": endpoint}
    return {
        OFF: {},
        "unsampled": {"agent": to, "dispatcher": {**to, "MANIPLE_TRACE_RATIO": "0"}},
        "sampled 1 %": {"agent": to, "dispatcher": {**to, "MANIPLE_TRACE_RATIO": "0.01"}},
    }


@dataclass(frozen=True)
class Run:
    """One run of a side: tasks per second, and microseconds of processor time for each."""

    rate: float
    cost: float


class Side:
    """A cluster and its client."""

    def __init__(self, cluster: Cluster, client: Client) -> None:
        """Load `cluster` through `client`."""
        self._cluster = cluster
        self._client = client

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, env: Mapping[str, Mapping[str, str]]) -> AsyncIterator["Side"]:
        """Start a cluster with these settings."""
        options = ClusterOptions(agents=2, registries=1, handlers=(handlers.__name__,), env=env)
        async with (
            Cluster(options) as cluster,
            connect(cluster.ready_info()["client_url"]) as client,
        ):
            yield cls(cluster, client)

    async def run(self, tasks: int) -> Run:
        """Run so many tasks."""
        before = await self._processor_seconds()
        rate = await map_all(self._client, tasks)
        return Run(rate, (await self._processor_seconds() - before) / tasks * 1e6)

    async def _processor_seconds(self) -> float:
        spent = 0.0
        for process in self._cluster.processes:
            if process.service in {"dispatcher", "agent"}:
                _, page = await fetch(f"{process.http}/metrics")
                spent += float(_SPENT.findall(page)[0])
        return spent


async def measure(tasks: int, rounds: int) -> dict[str, list[Run]]:
    """Return the runs of each side, one for each round."""
    server = await asyncio.start_server(drop, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, contextlib.AsyncExitStack() as stack:
        sides = {
            name: await stack.enter_async_context(Side.running(env))
            for name, env in _sides(endpoint).items()
        }
        for side in sides.values():
            for _ in range(WARM_UP_ROUNDS):
                await side.run(tasks // 4)
        runs: dict[str, list[Run]] = {name: [] for name in sides}
        for number in range(rounds):
            # Every other round the other way round: what comes later is not always the same.
            for name in list(sides) if number % 2 else reversed(list(sides)):
                await asyncio.sleep(PAUSE)
                run = await sides[name].run(tasks)
                runs[name].append(run)
                said = f"{run.rate:>9,.0f} tasks/s {run.cost:>7.1f} µs a task"
                print(f"round {number + 1}: {name:<12}{said}", flush=True)
    return runs


def report(runs: dict[str, list[Run]]) -> dict[str, object]:
    """Return the medians, and of each side the median of its ratios to what ran beside it."""
    pairs = {name: list(zip(runs[name], runs[OFF], strict=True)) for name in BOUNDS}
    faster = {name: median(ours.rate / off.rate for ours, off in p) for name, p in pairs.items()}
    dearer = {name: median(ours.cost / off.cost for ours, off in p) for name, p in pairs.items()}
    return {
        "tasks_per_second": {n: round(median(r.rate for r in found)) for n, found in runs.items()},
        "microseconds": {n: round(median(r.cost for r in found), 1) for n, found in runs.items()},
        "ratios": {name: round(ratio, 3) for name, ratio in faster.items()},
        "cost_ratios": {name: round(ratio, 3) for name, ratio in dearer.items()},
        "bounds": BOUNDS,
    }


def main() -> None:
    """Measure and print; exit with 1 when tracing costs more than it may."""
    parser = argparse.ArgumentParser(description="What tracing costs.")
    parser.add_argument("--tasks", type=int, default=40_000, help="in each run")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    figures = report(asyncio.run(measure(options.tasks, options.rounds)))
    print(json.dumps(figures))
    ratios = figures["ratios"]
    assert isinstance(ratios, dict)  # noqa: S101 - for mypy
    sys.exit(0 if all(ratios[name] >= bound for name, bound in BOUNDS.items()) else 1)


if __name__ == "__main__":
    main()
