"""Maniple and Celery on the same broker, doing nothing as fast as they can: `make bench`.

Both have their own vhost of one RabbitMQ and run in turns, so that what else the machine does
hits both. Rates are tasks per second from the first submission to the last checked result. The
last line is JSON. Compare ratios, not rates of different machines.
"""

import argparse
import asyncio
import json
import os
import sys
from dataclasses import dataclass
from statistics import median

from bench import celery_side, handlers
from bench.celery_side import Workers
from bench.maniple_side import PlainClient, map_all

from maniple.client import Client, connect
from maniple.local.cluster import Cluster, ClusterOptions

PAUSE = 1.0
# Bundles grow once agents have reported a hundred runs, which they do every half second.
WARM_UP_ROUNDS = 3


@dataclass(frozen=True)
class Plan:
    """How many tasks a run has, how many runs there are, and how many processes."""

    map_tasks: int
    single_tasks: int
    celery_tasks: int
    runs: int
    agents: int
    dispatchers: int
    workers: Workers


@dataclass(frozen=True)
class Rates:
    """Tasks per second of each run."""

    maniple: list[float]
    maniple_single: list[float]
    celery: list[float]

    def report(self) -> dict[str, object]:
        """Return medians and ratios, and the runs they come from."""
        celery = median(self.celery)
        return {
            "maniple": round(median(self.maniple)),
            "celery": round(celery),
            "ratio": round(median(self.maniple) / celery, 2),
            "maniple_single_message": round(median(self.maniple_single)),
            "single_message_ratio": round(median(self.maniple_single) / celery, 2),
            "runs": {
                "maniple": [round(rate) for rate in self.maniple],
                "maniple_single_message": [round(rate) for rate in self.maniple_single],
                "celery": [round(rate) for rate in self.celery],
            },
        }


async def compare(plan: Plan) -> Rates:
    """Start everything, warm it up, and run in turns."""
    options = ClusterOptions(
        agents=plan.agents, dispatchers=plan.dispatchers, handlers=(handlers.__name__,)
    )
    async with Cluster(options) as cluster:
        info = cluster.ready_info()
        url = await celery_side.add_vhost(cluster)
        async with (
            celery_side.running(url, plan.workers, cluster.data_dir / "logs"),
            connect(info["client_url"]) as client,
        ):
            return await _take_turns(Sides(plan, client, info["broker_url"], url))


class Sides:
    """What is compared. The blocking clients run in a thread while this loop idles."""

    def __init__(self, plan: Plan, client: Client, outside_url: str, celery_url: str) -> None:
        self._plan = plan
        self._client = client
        self._plain = PlainClient(outside_url)
        self._celery = celery_side.make_app(celery_url, prefetch=plan.workers.prefetch)
        self.runs = plan.runs

    async def warm_up(self) -> None:
        """Let everything connect, import and learn."""
        for _ in range(WARM_UP_ROUNDS):
            await map_all(self._client, self._plan.map_tasks // 4)
            await asyncio.to_thread(self._plain.submit, self._plan.single_tasks // 10)
            await asyncio.to_thread(celery_side.submit, self._celery, self._plan.celery_tasks // 10)

    async def maniple(self) -> float:
        """Run Maniple by `client.map`."""
        return await map_all(self._client, self._plan.map_tasks)

    async def maniple_single(self) -> float:
        """Run Maniple by one message per task."""
        return await asyncio.to_thread(self._plain.submit, self._plan.single_tasks)

    async def celery(self) -> float:
        """Run Celery."""
        return await asyncio.to_thread(celery_side.submit, self._celery, self._plan.celery_tasks)


async def _take_turns(sides: Sides) -> Rates:
    print("warming up", flush=True)
    await sides.warm_up()
    rates = Rates([], [], [])
    for number in range(1, sides.runs + 1):
        for name, kept, side in (
            ("maniple, client.map", rates.maniple, sides.maniple),
            ("maniple, single messages", rates.maniple_single, sides.maniple_single),
            ("celery", rates.celery, sides.celery),
        ):
            await asyncio.sleep(PAUSE)
            kept.append(await side())
            print(f"run {number}: {name:<26}{kept[-1]:>9,.0f} tasks/s", flush=True)
    return rates


def _plan(arguments: list[str]) -> Plan:
    parser = argparse.ArgumentParser(description="Maniple and Celery on the same broker.")
    parser.add_argument("--map-tasks", type=int, default=40_000)
    parser.add_argument("--single-tasks", type=int, default=5_000)
    parser.add_argument("--celery-tasks", type=int, default=3_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--dispatchers", type=int, default=1)
    parser.add_argument("--celery-processes", type=int, default=1)
    parser.add_argument("--celery-threads", type=int, default=8)
    parser.add_argument("--celery-prefetch", type=int, default=16, help="for each thread")
    given = parser.parse_args(arguments)
    return Plan(
        map_tasks=given.map_tasks,
        single_tasks=given.single_tasks,
        celery_tasks=given.celery_tasks,
        runs=given.runs,
        agents=given.agents,
        dispatchers=given.dispatchers,
        workers=Workers(given.celery_processes, given.celery_threads, given.celery_prefetch),
    )


def main() -> None:
    """Run the comparison and print it."""
    plan = _plan(sys.argv[1:])
    if os.environ.get("MANIPLE_BROKER_URL"):
        sys.exit("bench starts a broker of its own: unset MANIPLE_BROKER_URL")
    print(
        f"maniple: {plan.dispatchers} dispatcher, {plan.agents} agents; {plan.map_tasks:,} tasks "
        f"by client.map, {plan.single_tasks:,} by single messages (pika)\n"
        f"celery: {plan.workers.processes} worker of {plan.workers.threads} threads, "
        f"{plan.workers.prefetch} prefetched for each, acks_late, rpc://; "
        f"{plan.celery_tasks:,} tasks by apply_async\n"
        f"{plan.runs} runs each, in turns, on one RabbitMQ",
        flush=True,
    )
    rates = asyncio.run(compare(plan))
    print(json.dumps(rates.report()))


if __name__ == "__main__":
    main()
