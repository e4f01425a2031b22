"""How rate and processor time a task grow: with bundles, payloads, capabilities, clients, services.

    make bench ARGS='--section growth'

Each point is the median of some runs of two seconds; a point of another cluster has a cluster of
its own. On few cores more agents or dispatchers cannot give more: the cost is what grows there.
"""

from collections.abc import Mapping
from typing import Any

from bench import handlers, many_handlers
from bench.figures import Run, medians, microseconds
from bench.maniple_side import CLIENTS_VARIABLE
from bench.peers import Workers
from bench.sides import Bench, running_bench

from maniple_cli.dev_cluster.cluster import ClusterOptions

RUNS = 3
SECONDS = 2.0
BUNDLES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
PAYLOADS = (100, 1024, 4096, 16_384, 65_536, 262_144)
CAPABILITIES = (1, 10, 100, 1000)
CLIENTS = (1, 10, 50, 200)
DISPATCHERS = (1, 2, 4)
AGENTS = (1, 2, 4, 16, 64)
Point = dict[str, Any]


async def repeated(bench: Bench, kind: str, do: str, **fields: Any) -> Point:
    """Warm up, then run some times for about two seconds each; return the medians."""
    unit = max(fields.get("size", 1), len(fields.get("capabilities", [])))
    count, runs = max(200, unit), []
    for number in range(RUNS + 2):
        answer, used = await bench.ask(kind, do, count=count, **fields)
        runs.append(Run(count, count / answer["seconds"], microseconds(used, count)))
        count = max(unit, int(runs[-1].rate * (SECONDS if number else SECONDS / 4)) // unit * unit)
    return point(runs[2:])


def point(runs: list[Run]) -> Point:
    """Return rate and processor time a task, in all and by group."""
    found: Mapping[str, Any] = medians(runs)
    cost = dict(found["microseconds"])
    total = cost.pop("total")
    return {"tasks/s": found["rate"], "µs a task": total, **cost}


async def measure(step: Any) -> dict[str, list[Point]]:
    """Measure all series."""
    return {
        "tasks a message": await _in_one(step, "plain", "unreplied", "size", BUNDLES),
        "bytes of payload": await _in_one(step, "sdk", "flat", "payload_bytes", PAYLOADS),
        "capabilities": [await _capabilities(step, count) for count in CAPABILITIES],
        "clients": [await _clients(step, count) for count in CLIENTS],
        "dispatchers": [await _services(step, count, dispatchers=count) for count in DISPATCHERS],
        "agents": [await _services(step, count, agents=count) for count in AGENTS],
    }


async def _in_one(step: Any, kind: str, do: str, name: str, values: tuple[int, ...]) -> list[Point]:
    found = []
    async with running_bench(_options(), (kind,), Workers()) as bench:
        for value in values:
            found.append({"x": value, **await repeated(bench, kind, do, **{name: value})})
            step(_said(name, found[-1]))
    return found


async def _capabilities(step: Any, count: int) -> Point:
    options = ClusterOptions(
        agents=2,
        handlers=(many_handlers.__name__,),
        env={"agent": {many_handlers.COUNT_VARIABLE: str(count)}},
    )
    async with running_bench(options, ("sdk",), Workers()) as bench:
        names = many_handlers.names(count)
        found = {"x": count, **await repeated(bench, "sdk", "flat", capabilities=names)}
    step(_said("capabilities", found))
    return found


async def _clients(step: Any, count: int) -> Point:
    extra = {CLIENTS_VARIABLE: str(count)}
    async with running_bench(_options(), ("sdk",), Workers(), extra) as bench:
        found = {"x": count, **await repeated(bench, "sdk", "flat")}
    step(_said("clients", found))
    return found


async def _services(step: Any, x: int, *, dispatchers: int = 1, agents: int = 2) -> Point:
    options = _options(dispatchers=dispatchers, agents=agents)
    async with running_bench(options, ("sdk",), Workers()) as bench:
        found = {"x": x, **await repeated(bench, "sdk", "flat")}
    step(_said(f"{dispatchers} dispatchers, {agents} agents", found))
    return found


def _options(*, dispatchers: int = 1, agents: int = 2) -> ClusterOptions:
    return ClusterOptions(agents=agents, dispatchers=dispatchers, handlers=(handlers.__name__,))


def _said(name: str, found: Point) -> str:
    rate, cost = found["tasks/s"], found["µs a task"]
    return f"{name} {found['x']:,}: {rate:,} tasks/s, {cost:,.0f} µs a task"
