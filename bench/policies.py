"""How long a policy takes from `apply` until every process has it in force.

    PYTHONPATH=tests/support:tests python -m bench.policies --processes 50 --changes 30

A policy service in a process of its own, over a real RabbitMQ and Consul; as many views as there
are processes follow it, each over a connection of its own, all in this process. Beside the policy
that changes, `--policies` others are in force. The last line is JSON: seconds from the request
until the last one has it, and until the policy service has heard so from all.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import structlog

from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.output import run
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.policy_view import PolicyView
from policy_records import document
from policy_services import Operator, views

BOUND = 1.0
PATIENCE = 30.0
POLL = 0.005


async def measure(processes: int, changes: int, policies: int) -> dict[str, object]:
    """Change a policy again and again, and return the figures."""
    options = ClusterOptions(agents=0, dispatchers=0, registries=0)
    async with Cluster(options) as cluster:
        url = cluster.servers.broker_url("agent")
        with tempfile.TemporaryDirectory(prefix="maniple-bench-") as folder:
            async with (
                ControlPlane(url, name="bench-policies", log=structlog.get_logger()) as plane,
                views(url, processes, Path(folder)) as following,
            ):
                operator = Operator(plane)
                others = [document(f"other-{n}") for n in range(policies)]
                if others:
                    await operator.ask("apply_all", documents=others)
                begun = time.monotonic()
                while any(len(view.current.policies) < policies for view in following):
                    await _rest(begun)
                taken = [await _change(operator, following, n + 1.0) for n in range(changes)]
    in_force, known = zip(*taken, strict=True)
    return {
        "processes": processes,
        "policies": policies + 1,
        "changes": changes,
        "in_force_everywhere": _spread(in_force),
        "known_to_be": _spread(known),
    }


async def _change(
    operator: Operator, following: list[PolicyView], seconds: float
) -> tuple[float, float]:
    begun = time.monotonic()
    asked = asyncio.create_task(operator.apply("t", seconds))
    while any(view.resolve("t.x", "t", {}).timeout != seconds for view in following):
        await _rest(begun)
    in_force = time.monotonic() - begun
    await asked
    while True:
        status = (await operator.ask("status"))["policies"]
        (ours,) = [one for one in status if one["policy"] == "timeout/t"]
        if ours["have"] == len(following):
            return in_force, time.monotonic() - begun
        await _rest(begun)


async def _rest(begun: float) -> None:
    if time.monotonic() > begun + PATIENCE:
        raise TimeoutError(f"not everywhere within {PATIENCE:g} s")
    await asyncio.sleep(POLL)


def _spread(seconds: tuple[float, ...]) -> dict[str, float]:
    return {"median": round(median(seconds), 3), "max": round(max(seconds), 3)}


def main() -> None:
    """Measure and print; exit with 1 when it takes a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--policies", type=int, default=50, help="others that are in force")
    options = parser.parse_args()
    figures = run(measure(options.processes, options.changes, options.policies))
    print(json.dumps(figures))
    spread = figures["in_force_everywhere"]
    assert isinstance(spread, dict)  # noqa: S101 - for mypy
    sys.exit(0 if spread["max"] <= BOUND else 1)


if __name__ == "__main__":
    main()
