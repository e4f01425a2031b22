"""Whether agents that are merely slow are called dead: every core is kept busy for ten minutes.

    python -m bench.false_alarms --minutes 10

Three agents run CPU-bound tasks, twice as many at once as there are cores, in worker processes and
in threads of their own process. The last line is JSON: how often an agent was called unreachable or
failed (none was dead), the oldest heartbeat and the longest delay of an agent's loop that were
seen, the tasks done, each checked, and which part of all cores' time was used. It exits with 1 if
an agent was called either, if a process died, or if the cores were not busy.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from bench import handlers
from bench.handlers import BURN, BURN_IN_THREAD, burnt
from rich.progress import Progress

from maniple.client import Client, connect
from maniple.errors import ManipleError
from maniple.topology import EVENTS
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.output import error_console, run
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.events import AGENT_EVENTS, AgentEvent

AGENTS = 3
SECONDS_EACH = 0.5  # of processor time, as the handler's rounds make it on an idle machine
LOOK = 1.0
BUSY = 0.95  # of all cores' time: with less, nothing has been shown


@dataclass
class Seen:
    """What was heard of the agents."""

    events: Counter[str] = field(default_factory=Counter)
    oldest_heartbeat: float = 0.0
    longest_lag: float = 0.0
    unanswered: int = 0

    def note(self, event: AgentEvent) -> None:
        """Count an event."""
        self.events[event.KEY] += 1

    def look(self, agents: list[dict[str, Any]]) -> None:
        """Keep the worst of what the registry shows."""
        for agent in agents:
            self.oldest_heartbeat = max(self.oldest_heartbeat, agent["heartbeat_age"])
            self.longest_lag = max(self.longest_lag, agent["loop_lag"])


async def _burn(client: Client, capability: str, until: float) -> int:
    """Run tasks one after the other; return how many."""
    done = 0
    while time.monotonic() < until:
        rounds = int(SECONDS_EACH * handlers.ROUNDS_A_SECOND)
        handle = await client.submit(capability, rounds)
        if await handle.result(timeout=300) != burnt(rounds):
            raise RuntimeError("a task returned something else than its sum")
        done += 1
    return done


async def _look(plane: ControlPlane, seen: Seen, until: float, progress: Progress) -> None:
    bar = progress.add_task("both cores busy", total=until - time.monotonic())
    while time.monotonic() < until:
        try:
            seen.look((await plane.request("registry", "agents"))["agents"])
        except ManipleError:
            seen.unanswered += 1
        await asyncio.sleep(LOOK)
        progress.advance(bar, LOOK)


def _times() -> tuple[float, float]:
    """Return what all cores have spent at work, and in all, since the machine was started."""
    with Path("/proc/stat").open() as file:
        spent = [int(ticks) for ticks in file.readline().split()[1:9]]
    user, nice, system, idle, waiting, *others = spent
    worked = user + nice + system + sum(others)
    return worked, worked + idle + waiting


async def measure(minutes: float) -> dict[str, object]:
    """Keep the machine busy and return what was seen."""
    cores = os.cpu_count() or 1
    seen = Seen()
    options = ClusterOptions(agents=AGENTS, handlers=(handlers.__name__,))
    async with (
        Cluster(options) as cluster,
        connect(cluster.ready_info()["client_url"]) as client,
        ControlPlane(
            cluster.ready_info()["operator_url"], name="bench-watch", log=structlog.get_logger()
        ) as plane,
    ):
        await plane.subscribe(EVENTS, ("agent.*",), AGENT_EVENTS, seen.note)
        until = time.monotonic() + minutes * 60
        worked, passed = _times()
        with Progress(console=error_console()) as progress:
            done = await asyncio.gather(
                *(_burn(client, BURN, until) for _ in range(2 * cores)),
                *(_burn(client, BURN_IN_THREAD, until) for _ in range(cores)),
                _look(plane, seen, until, progress),
            )
        after, end = _times()
        deaths = [death.name for death in cluster.deaths]
    return {
        "minutes": minutes,
        "tasks": sum(count for count in done if count is not None),
        "unreachable": seen.events["agent.unreachable"],
        "failed": seen.events["agent.failed"],
        "oldest_heartbeat": round(seen.oldest_heartbeat, 2),
        "longest_lag": round(seen.longest_lag, 2),
        "busy": round((after - worked) / (end - passed), 3),
        "unanswered": seen.unanswered,
        "deaths": deaths,
    }


def complaints(figures: Mapping[str, Any]) -> list[str]:
    """Say what must not be so."""
    named = ("unreachable", "failed", "deaths")
    found = [f"{name}: {figures[name]}" for name in named if figures[name]]
    if figures["busy"] < BUSY or not figures["tasks"]:
        found.append(f"the cores were busy for {figures['busy']:.0%} of the time only")
    return found


def main() -> None:
    """Measure and print; exit with 1 when a slow agent was called dead, or none was slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    figures = run(measure(parser.parse_args().minutes))
    print(json.dumps(figures))
    wrong = complaints(figures)
    for complaint in wrong:
        print(complaint, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
