"""Maniple and its peers on the same broker, doing nothing as fast as they can.

    python -m bench.run, or the first half of make bench

The peers share a vhost, and all run in turns, so that what else the machine does hits all. Rates
are tasks per second from the first submission to the last checked result; with Dramatiq and Taskiq,
which keep no results in RabbitMQ, to the last task that ran. Then comes what tracing costs
(`bench.tracing`). The last line is JSON. Compare ratios, not rates of different machines.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median

from bench import celery_side, dramatiq_side, handlers, maniple_side, taskiq_side, tracing
from bench.peers import Submit, Workers, add_vhost

from maniple.client import connect
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions

PAUSE = 1.0
# Bundles grow once agents have reported a hundred runs, which they do every half second.
WARM_UP_ROUNDS = 3
WARM_UP_SHARE = 0.1
MAP = "maniple"
SINGLE = "maniple_single_message"
PEERS = {
    "celery": celery_side.side,
    "dramatiq": dramatiq_side.side,
    "taskiq": taskiq_side.side,
}


@dataclass(frozen=True)
class Plan:
    """How many tasks a run has, how many runs there are, and how many processes."""

    map_tasks: int
    single_tasks: int
    peer_tasks: int
    runs: int
    agents: int
    dispatchers: int
    workers: Workers
    tracing_rounds: int


@dataclass(frozen=True)
class Side:
    """One that is compared, with what submits to it and the tasks of a run."""

    name: str
    tasks: int
    submit: Submit


def report(rates: dict[str, list[float]]) -> dict[str, object]:
    """Return medians and ratios, and the runs they come from."""
    medians = {name: median(runs) for name, runs in rates.items()}
    return {
        **{name: round(rate) for name, rate in medians.items()},
        "ratios": {name: round(medians[MAP] / medians[name], 2) for name in PEERS},
        "single_message_ratios": {
            name: round(medians[SINGLE] / medians[name], 2) for name in PEERS
        },
        "runs": {name: [round(rate) for rate in runs] for name, runs in rates.items()},
    }


async def compare(plan: Plan) -> dict[str, list[float]]:
    """Start everything, warm it up, and run in turns; return the rate of each run of each side."""
    async with _sides(plan) as sides:
        print("warming up", flush=True)
        for _ in range(WARM_UP_ROUNDS):
            for side in sides:
                await side.submit(int(side.tasks * WARM_UP_SHARE))
        rates: dict[str, list[float]] = {side.name: [] for side in sides}
        for number in range(1, plan.runs + 1):
            for side in sides:
                await asyncio.sleep(PAUSE)
                rate = await side.submit(side.tasks)
                rates[side.name].append(rate)
                print(f"run {number}: {side.name:<24}{rate:>9,.0f} tasks/s", flush=True)
        return rates


@asynccontextmanager
async def _sides(plan: Plan) -> AsyncIterator[list[Side]]:
    """Start a cluster, the peers' workers on its broker, and clients of all. About 20 s."""
    options = ClusterOptions(
        agents=plan.agents, dispatchers=plan.dispatchers, handlers=(handlers.__name__,)
    )
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(Cluster(options))
        info = cluster.ready_info()
        client = await stack.enter_async_context(connect(info["client_url"]))
        plain = maniple_side.PlainClient(info["broker_url"])
        stack.callback(plain.close)
        sides = [
            Side(MAP, plan.map_tasks, lambda count: maniple_side.map_all(client, count)),
            Side(SINGLE, plan.single_tasks, lambda count: asyncio.to_thread(plain.submit, count)),
        ]
        url = await add_vhost(cluster)
        for name, side in PEERS.items():
            submit = await stack.enter_async_context(
                side(url, plan.workers, cluster.data_dir / "logs")
            )
            sides.append(Side(name, plan.peer_tasks, submit))
        yield sides


def _plan(arguments: list[str]) -> Plan:
    parser = argparse.ArgumentParser(description="Maniple and its peers on the same broker.")
    parser.add_argument("--map-tasks", type=int, default=40_000)
    parser.add_argument("--single-tasks", type=int, default=5_000)
    parser.add_argument("--peer-tasks", type=int, default=3_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--dispatchers", type=int, default=1)
    parser.add_argument("--peer-processes", type=int, default=1, help="of workers, of each peer")
    parser.add_argument("--peer-threads", type=int, default=8, help="of each process")
    parser.add_argument("--peer-prefetch", type=int, default=16, help="for each thread")
    parser.add_argument("--tracing-rounds", type=int, default=5, help="0 leaves tracing out")
    given = parser.parse_args(arguments)
    return Plan(
        map_tasks=given.map_tasks,
        single_tasks=given.single_tasks,
        peer_tasks=given.peer_tasks,
        runs=given.runs,
        agents=given.agents,
        dispatchers=given.dispatchers,
        workers=Workers(given.peer_processes, given.peer_threads, given.peer_prefetch),
        tracing_rounds=given.tracing_rounds,
    )


def main() -> None:
    """Run the comparison and print it."""
    plan = _plan(sys.argv[1:])
    if os.environ.get("MANIPLE_BROKER_URL"):
        sys.exit("bench starts a broker of its own: unset MANIPLE_BROKER_URL")
    print(
        f"maniple: {plan.dispatchers} dispatcher, {plan.agents} agents; {plan.map_tasks:,} tasks "
        f"by client.map, {plan.single_tasks:,} by single messages (pika)\n"
        f"each peer: {plan.workers.processes} worker, {plan.workers.threads} threads (Taskiq: as "
        f"many tasks at once as prefetched), {plan.workers.held} prefetched, {plan.peer_tasks:,} "
        "tasks\n"
        "celery: acks_late, results by rpc://; dramatiq and taskiq: no results\n"
        f"{plan.runs} runs each, in turns, on one RabbitMQ",
        flush=True,
    )
    found = report(asyncio.run(compare(plan)))
    if plan.tracing_rounds:
        runs = asyncio.run(tracing.measure(plan.map_tasks, plan.tracing_rounds))
        found["tracing"] = tracing.report(runs)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
