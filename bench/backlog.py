"""A backlog of 200,000 tasks: how long it takes until all have run.

    make bench ARGS='--section backlog'

They are published at once, in messages of 1,000, much faster than they run; nothing is replied.
"""

from typing import Any

from bench import handlers
from bench.figures import microseconds
from bench.peers import Workers
from bench.processes import resident
from bench.sides import running_bench

from maniple_cli.dev_cluster.cluster import ClusterOptions

TASKS = 200_000
SIZE = 1000


async def measure(step: Any) -> dict[str, list[dict[str, Any]]]:
    """Publish and drain it, and return rate, processor time, and memory afterwards."""
    options = ClusterOptions(agents=2, handlers=(handlers.__name__,))
    async with running_bench(options, ("plain",), Workers()) as bench:
        await bench.ask("plain", "unreplied", count=20 * SIZE, size=SIZE)
        answer, used = await bench.ask("plain", "unreplied", count=TASKS, size=SIZE)
        seconds = answer["seconds"]
        found = {
            "tasks": TASKS,
            "seconds": round(seconds, 1),
            "tasks/s": round(TASKS / seconds),
            "µs a task": round(microseconds(used, TASKS)["total"], 1),
            "largest process after it, MiB": max(resident(bench.cluster).values()),
        }
    step(f"{TASKS:,} tasks drained in {seconds:.1f} s")
    return {"drained": [found]}
