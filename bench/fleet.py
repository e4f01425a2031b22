"""How much of a core one registry takes for a large fleet, and how soon it notices the dead.

    python -m bench.fleet --agents 10000

Simulated agents, many per connection, send their heartbeats every 3 s ± 10 % to a real registry
over a real RabbitMQ; 250 a second join. After a quiet minute a hundredth falls silent at once. The
last line is JSON: the registry's share of a core and its memory while all are alive, the seconds
from the last heartbeat of a silent agent to `agent.unreachable` and `agent.failed`, and the false
alarms. The agents are not in Consul, so what its checks cost is not in the figures.
"""

import argparse
import asyncio
import contextlib
import heapq
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median

import structlog
from bench.processes import Usage
from rich.progress import Progress

from maniple.amqp import AmqpConnection, Connection
from maniple.amqp.wire.amqp_errors import AmqpError
from maniple.amqp.wire.channel import Channel
from maniple.amqp.wire.properties import Properties
from maniple.identifiers import new_id
from maniple.topology import EVENTS, HEARTBEATS
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.output import error_console, run
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import AgentDescription, Heartbeat
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.events import AgentEvent, AgentFailed, AgentUnreachable

PERIOD = 3.0
JITTER = 0.1
PER_CONNECTION = 1000
JOINING = 250.0  # agents a second, at the beginning
SETTLE = 10.0  # seconds from the last first heartbeat until measuring begins
SILENT_SHARE = 0.01
NOTICED_WITHIN = 15.0
SHARE_LIMIT = 0.5
BOUND = 10.0
KEYS = (AgentUnreachable.KEY, AgentFailed.KEY)


class Spray:
    """Publishes heartbeats without waiting: the sender is not what is measured."""

    def __init__(self, link: AmqpConnection) -> None:
        self._channel: Channel | None = None
        link.add_endpoint(self)

    async def open(self, connection: Connection) -> Channel:
        """Open a channel."""
        self._channel = await connection.channel(publisher_confirms=True)
        return self._channel

    def lost(self) -> None:
        """Forget the channel."""
        self._channel = None

    def send(self, heartbeat: Heartbeat) -> None:
        """Publish one heartbeat."""
        if self._channel is not None:
            properties = Properties(
                content_type="application/json",
                delivery_mode=2,
                message_id=new_id(),
                message_type=heartbeat.TYPE,
            )
            with contextlib.suppress(AmqpError):  # who is told of a loss forgets the channel
                self._channel.publish(
                    heartbeat.to_json(),
                    exchange=HEARTBEATS.name,
                    routing_key="",
                    properties=properties,
                )


@dataclass
class Simulated:
    """One agent: nothing but its heartbeats."""

    description: AgentDescription
    spray: Spray
    digest: str = ""
    sequence: int = 0
    sent: float = 0.0
    silent: bool = False

    def beat(self) -> None:
        """Send the next heartbeat, the first one with the description."""
        first = not self.sequence
        self.sequence += 1
        self.digest = self.digest or self.description.digest
        self.spray.send(
            Heartbeat(
                agent=self.description.agent,
                incarnation=self.description.incarnation,
                sequence=self.sequence,
                sent_at=datetime.now(UTC),
                slots=16,
                hungry=(),
                digest=self.digest,
                description=self.description if first else None,
            )
        )
        self.sent = time.monotonic()


@dataclass
class Heard:
    """When the registry reported what about which agent."""

    unreachable: dict[str, float] = field(default_factory=dict)
    failed: dict[str, float] = field(default_factory=dict)

    def note(self, event: AgentEvent) -> None:
        """Record the first time of each event."""
        kept = {AgentUnreachable: self.unreachable, AgentFailed: self.failed}.get(type(event))
        if kept is not None:
            kept.setdefault(event.agent, time.monotonic())


class Fleet:
    """All simulated agents, and the loop that sends for them."""

    def __init__(self, count: int, sprays: list[Spray]) -> None:
        self.agents = [_agent(number, sprays[number // PER_CONNECTION]) for number in range(count)]
        self._late = 0.0

    async def beat(self) -> None:
        """Send every agent's heartbeats when they are due, until cancelled."""
        now = time.monotonic()
        due = [(now + number / JOINING, number) for number in range(len(self.agents))]
        while True:
            when, number = due[0]
            await asyncio.sleep(max(0.0, when - time.monotonic()))
            self._late = max(self._late, time.monotonic() - when)
            agent = self.agents[number]
            if not agent.silent:
                agent.beat()
            after = when + PERIOD * random.uniform(1 - JITTER, 1 + JITTER)
            heapq.heapreplace(due, (after, number))

    def worst_delay(self) -> float:
        """Return the largest delay of a heartbeat, and start counting anew."""
        late, self._late = self._late, 0.0
        return late

    def silence(self) -> list[Simulated]:
        """Silence this many agents, and return them."""
        victims = random.sample(self.agents, max(1, int(len(self.agents) * SILENT_SHARE)))
        for victim in victims:
            victim.silent = True
        return victims


def _agent(number: int, spray: Spray) -> Simulated:
    description = AgentDescription(
        agent=AgentId(f"simulated-{number}"),
        incarnation=Incarnation(new_id()),
        host=f"host-{number // 16}",
        pid=number,
        capabilities=("text.stats", "maniple.echo", "maniple.sleep", "maniple.fail"),
        lanes=("text.stats", "maniple.echo", "maniple.sleep", "maniple.fail"),
        versions={"maniple": "0", "python": "3.11"},
        started_at=datetime.now(UTC),
    )
    return Simulated(description, spray)


def _links(url: str, count: int) -> Iterator[AmqpConnection]:
    for number in range(-(-count // PER_CONNECTION)):
        yield AmqpConnection(url, name=f"simulated-{number}")


async def measure(count: int, seconds: float) -> dict[str, object]:
    """Run the fleet and return the figures."""
    async with Cluster(ClusterOptions(agents=0, dispatchers=0, registries=1)) as cluster:
        registry = cluster.process("registry-1").pid
        url = cluster.servers.broker_url("agent")
        links = list(_links(url, count))
        fleet = Fleet(count, [Spray(link) for link in links])
        heard = Heard()
        async with ControlPlane(url, name="bench-fleet", log=structlog.get_logger()) as plane:
            await plane.subscribe(EVENTS, KEYS, (AgentUnreachable, AgentFailed), heard.note)
            for link in links:
                await link.start(10.0)
            beating = asyncio.create_task(fleet.beat())
            try:
                return await _watch(fleet, heard, registry, seconds)
            finally:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
                await asyncio.gather(*(link.close() for link in links))


async def _watch(fleet: Fleet, heard: Heard, registry: int, seconds: float) -> dict[str, object]:
    with Progress(console=error_console()) as progress:
        settled = len(fleet.agents) / JOINING + SETTLE
        bar = progress.add_task("heartbeats", total=settled + seconds + NOTICED_WITHIN)

        async def wait(duration: float) -> None:
            end = time.monotonic() + duration
            while (left := end - time.monotonic()) > 0:
                await asyncio.sleep(min(0.5, left))
                progress.advance(bar, min(0.5, left))

        await wait(settled)
        fleet.worst_delay()
        heard.unreachable.clear()  # what a fleet does that all comes at once is not measured
        before, began = Usage.of(registry), time.monotonic()
        await wait(seconds)
        after, ended = Usage.of(registry), time.monotonic()
        delay = fleet.worst_delay()
        false_alarms = len(heard.unreachable)
        silent = {victim.description.agent: victim.sent for victim in fleet.silence()}
        await wait(NOTICED_WITHIN)
    false_alarms += len(heard.unreachable.keys() - silent.keys())
    return {
        "agents": len(fleet.agents),
        "registry_share_of_a_core": round((after.seconds - before.seconds) / (ended - began), 3),
        "registry_megabytes": round(after.mebibytes * 2**20 / 1e6),
        "sent_late_at_most": round(delay, 3),
        "unreachable_after": _spread(heard.unreachable, silent),
        "failed_after": _spread(heard.failed, silent),
        "false_alarms": false_alarms,
    }


def _spread(heard: dict[str, float], silent: dict[AgentId, float]) -> dict[str, float | int]:
    seconds = [heard[agent] - since for agent, since in silent.items() if agent in heard]
    shown = {"median": round(median(seconds), 2), "max": round(max(seconds), 2)} if seconds else {}
    return {"silent": len(silent), "noticed": len(seconds), **shown}


def good(figures: dict[str, object]) -> bool:
    """Tell whether the targets are met."""
    failed = figures["failed_after"]
    assert isinstance(failed, dict)  # noqa: S101 - for mypy
    share = figures["registry_share_of_a_core"]
    return (
        isinstance(share, float)
        and share <= SHARE_LIMIT
        and failed["noticed"] == failed["silent"]
        and failed["max"] <= BOUND
        and not figures["false_alarms"]
    )


def main() -> None:
    """Measure and print; exit with 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure")
    options = parser.parse_args()
    figures = run(measure(options.agents, options.seconds))
    print(json.dumps(figures))
    sys.exit(0 if good(figures) else 1)


if __name__ == "__main__":
    main()
