"""How near tasks that take time come to the ideal.

    make bench ARGS='--section efficiency'

Two agents with 16 slots each, so that the ideal is less than what the cluster does with tasks that
take no time: not that is to be measured again. The ideal of tasks that wait is all slots always
full; of tasks that compute, in worker processes, all cores always at them.
"""

import os
from typing import Any

from bench import handlers
from bench.handlers import SLEEP, SPIN
from bench.peers import Workers
from bench.sides import running_bench

from maniple_cli.dev_cluster.cluster import ClusterOptions

AGENTS = 2
SLOTS = 16
RUN_SECONDS = 5.0
SPIN_SECONDS = (0.01, 0.1)
SLEEP_SECONDS = (0.01, 0.1)


def efficiency(tasks: int, each: float, at_once: int, seconds: float) -> float:
    """Return the ideal duration of some tasks, `at_once` at a time, by the duration it took."""
    return tasks * each / at_once / seconds


async def measure(step: Any) -> dict[str, list[dict[str, Any]]]:
    """Run tasks that wait 10 and 100 ms, and tasks that compute for as long."""
    cores = os.cpu_count() or 1
    options = ClusterOptions(
        agents=AGENTS,
        handlers=(handlers.__name__,),
        env={"agent": {"MANIPLE_SLOTS": str(SLOTS), "MANIPLE_PROCESSES": str(cores)}},
    )
    cases = {
        "waiting": (SLEEP, SLEEP_SECONDS, AGENTS * SLOTS),
        "computing": (SPIN, SPIN_SECONDS, cores),
    }
    found: dict[str, list[dict[str, Any]]] = {}
    async with running_bench(options, ("sdk",), Workers()) as bench:
        for name, (capability, durations, at_once) in cases.items():
            for each in durations:
                fields = {"capability": capability, "payload": each, "window": 4 * AGENTS * SLOTS}
                tasks = int(RUN_SECONDS * at_once / each)
                await bench.ask("sdk", "same", count=max(at_once, tasks // 5), **fields)
                answer, _ = await bench.ask("sdk", "same", count=tasks, **fields)
                did = answer["outputs"] / tasks  # of a task that computes, what it has used
                share = round(efficiency(tasks, did, at_once, answer["seconds"]), 3)
                one = {"ms": each * 1e3, "tasks": tasks, "at once": at_once, "of the ideal": share}
                found.setdefault(name, []).append(one)
                step(f"{name} {each * 1e3:g} ms: {share:.0%} of the ideal")
    return found
