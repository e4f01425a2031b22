"""The quick form of `make bench`: all sides in turn, fixed rates, bytes and memory.

Every run lasts about as long as the others, by the rates that the warm-up showed, so that the whole
takes as long on any machine.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench import broker_bytes, handlers
from bench.figures import Run, medians, middle_of, middle_ratio
from bench.peers import Workers
from bench.sides import (
    CELERY,
    DRAMATIQ,
    DRAMATIQ_CONFIRMED,
    MAP,
    PEERS,
    SIDES,
    SINGLE,
    SINGLE_CONFIRMED,
    Bench,
    Side,
    running_bench,
)

from maniple_cli.dev_cluster.cluster import ClusterOptions

Step = Callable[[str], None]
PAUSE = 0.5
WARM_UPS = (300, 0.4, 0.8)
"""Tasks of the first, and seconds of the others by the rate of the one before."""
OPEN_WARM_UP = 1.0
PAYLOAD = 20  # bytes
SHARE = 0.6
FIXED = {
    "sdk_12000": ("sdk", 12_000.0),
    "sdk_200": ("sdk", 200.0),
    "single_1000": ("plain", 1000.0),
}
SIXTY = "sdk_60_percent"
FAST = "sdk_12000"
HOPELESS = 0.8
"""Of the rate: what is slower flat out is not asked to carry it."""
BYTES_OF = (MAP, SINGLE, CELERY, DRAMATIQ)
BYTES_SECONDS = 1.5


@dataclass(frozen=True)
class Plan:
    """How much is measured. A run has `seconds`' worth of tasks, and at least `tasks`."""

    rounds: int = 3
    seconds: float = 2.5
    tasks: int = 0
    open_seconds: float = 5.0
    agents: int = 2
    dispatchers: int = 1
    workers: Workers = field(default_factory=Workers)

    @property
    def steps(self) -> int:
        """How many steps of progress there are."""
        loops = len(FIXED) + 1
        return 1 + len(SIDES) * (self.rounds + 1) + loops * self.rounds + len(BYTES_OF)

    @property
    def options(self) -> ClusterOptions:
        """The cluster that is measured."""
        return ClusterOptions(
            agents=self.agents, dispatchers=self.dispatchers, handlers=(handlers.__name__,)
        )


async def measure(plan: Plan, step: Step) -> dict[str, Any]:
    """Start everything, measure, and return what was found."""
    async with running_bench(plan.options, ("sdk", "plain", *PEERS), plan.workers) as bench:
        step("started")
        rates = {side.name: await _warm_up(bench, side, step) for side in SIDES}
        runs = await _flat_out(bench, plan, rates, step)
        rate = median(run.rate for run in runs[MAP])
        return {
            "flat_out": {name: medians(of_side) for name, of_side in runs.items()},
            "ratios": {name: round(ratio, 3) for name, ratio in compared(runs).items()},
            "open_loop": await _open_loops(bench, plan, rate, step),
            "bytes": await _bytes(bench, rates, step),
            "memory_at_rest": dict(bench.at_rest),
            "rabbitmq": (await broker_bytes.control(bench.cluster, "version")).strip(),
        }


def compared(runs: dict[str, list[Run]]) -> dict[str, float]:
    """Return the ratios that targets ask for, each the median of its rounds."""
    rates = {name: [run.rate for run in found] for name, found in runs.items()}
    costs = {name: [run.cost["total"] for run in found] for name, found in runs.items()}
    return {
        "map_to_celery": middle_ratio(rates[MAP], rates[CELERY]),
        "map_to_dramatiq": middle_ratio(rates[MAP], rates[DRAMATIQ]),
        "celery_cost_to_map": middle_ratio(costs[CELERY], costs[MAP]),
        "single_to_celery": middle_ratio(rates[SINGLE], rates[CELERY]),
        "single_cost_to_dramatiq": middle_ratio(costs[SINGLE_CONFIRMED], costs[DRAMATIQ_CONFIRMED]),
    }


async def _warm_up(bench: Bench, side: Side, step: Step) -> float:
    """Run some tasks, ever more, and return the last rate."""
    count, *seconds = WARM_UPS
    rate = (await bench.flat(side, int(count))).rate
    for one in seconds:
        rate = (await bench.flat(side, max(100, int(rate * one)))).rate
    step(f"{side.label}: warm")
    return rate


async def _flat_out(
    bench: Bench, plan: Plan, rates: dict[str, float], step: Step
) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {side.name: [] for side in SIDES}
    for number in range(plan.rounds):
        for side in SIDES:
            await asyncio.sleep(PAUSE)
            count = max(plan.tasks, int(rates[side.name] * plan.seconds), 500)
            run = await bench.flat(side, count)
            rates[side.name] = run.rate
            runs[side.name].append(run)
            said = f"{run.rate:,.0f} tasks/s, {run.cost['total']:,.0f} µs a task"
            step(f"round {number + 1}, {side.label}: {said}")
    return runs


async def _open_loops(
    bench: Bench, plan: Plan, rate: float, step: Step
) -> dict[str, dict[str, float]]:
    loops = {SIXTY: ("sdk", SHARE * rate), **FIXED}
    if rate < HOPELESS * loops[FAST][1]:
        del loops[FAST]  # it would only show how a queue grows, for minutes
    found: dict[str, list[dict[str, float]]] = {name: [] for name in loops}
    for number in range(plan.rounds):
        for name, (kind, wanted) in loops.items():
            await bench.open(kind, wanted, OPEN_WARM_UP)
            await asyncio.sleep(PAUSE)
            one = await bench.open(kind, wanted, plan.open_seconds)
            found[name].append(one)
            step(f"round {number + 1}, {wanted:,.0f}/s: p50 {one['p50']}, p99 {one['p99']} ms")
    return {name: middle_of(rounds) for name, rounds in found.items()}


async def _bytes(bench: Bench, rates: dict[str, float], step: Step) -> dict[str, dict[str, float]]:
    found = {}
    for side in SIDES:
        if side.name in BYTES_OF:
            count = max(1000, int(rates[side.name] * BYTES_SECONDS))
            fields = {**side.fields, **({"payload_bytes": PAYLOAD} if side.name == MAP else {})}
            client, do = bench.clients[side.client], side.do
            before = await broker_bytes.traffic(bench.cluster)
            await client.ask(do, count=count, **fields)
            found[side.name] = (await broker_bytes.traffic(bench.cluster)).since(before, count)
            step(f"{side.label}: {found[side.name]['received']:,.0f} bytes a task")
    return found
