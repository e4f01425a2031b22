"""What has to hold when all faults are over."""

import asyncio
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from maniple.topology import QUEUES
from maniple_cli.dev_cluster.child import Death
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_cli.dev_cluster.http import fetch
from maniple_runtime.events import AgentFailed
from rabbitmqctl import Commanded
from system.campaign import courier
from system.campaign.history import History
from system.campaign.measure import Evidence

QUEUE_LOOKS, LOOK_SECONDS = 10, 0.5
STREAMS = {queue.name for queue in QUEUES if queue.kind == "stream"}
PASSING_SECONDS = 20.0


def unexpected(deaths: Collection[Death], killed: Collection[int]) -> Iterator[str]:
    """Tell which processes died by themselves."""
    for death in deaths:
        if death.pid not in killed:
            yield f"{death.name} died by itself with {death.cause}: {death.tail[-500:]}"


async def left_in_queues(broker: Commanded, vhost: str) -> list[str]:
    """Tell which queues, but for streams, still have messages once all have been acknowledged."""
    left: list[str] = []
    for _ in range(QUEUE_LOOKS):
        # Asked of the queues themselves: the management API's figures are up to 12 s old.
        columns = ("name", "messages", "--formatter", "json")
        told = await broker.control("list_queues", "--vhost", vhost, *columns)
        left = [_told(queue) for queue in json.loads(told) if _holds(queue)]
        if not left:
            break
        await asyncio.sleep(LOOK_SECONDS)
    return left


def _holds(queue: Mapping[str, Any]) -> bool:
    return queue["name"] not in {*STREAMS, courier.QUEUE} and bool(queue["messages"])


def _told(queue: Mapping[str, Any]) -> str:
    return f"{queue['messages']} messages are left in {queue['name']}"


async def missing_in_consul(cluster: Cluster) -> list[str]:
    """Tell which processes Consul does not know as passing, once they have had time for it."""
    missing: list[str] = []
    for _ in range(round(PASSING_SECONDS / LOOK_SECONDS)):
        missing = await _missing(cluster)
        if not missing:
            break
        await asyncio.sleep(LOOK_SECONDS)
    return [f"Consul does not know {name} as passing" for name in missing]


async def _missing(cluster: Cluster) -> list[str]:
    _, body = await fetch(f"{cluster.servers.consul_url}/v1/health/state/any")
    try:
        checks = json.loads(body)
    except ValueError:  # it does not answer
        checks = []
    return not_passing(checks, {process.instance for process in cluster.processes})


def not_passing(checks: Collection[Mapping[str, Any]], names: Collection[str]) -> list[str]:
    """Return who of `names` has no checks in Consul, or one that is not passing."""
    of = {name: [c["Status"] for c in checks if c["ServiceID"] == name] for name in names}
    return sorted(name for name, found in of.items() if set(found) != {"passing"})


def false_failures(history: History, expected: Collection[tuple[str, str]]) -> Iterator[str]:
    """Account for every agent that was declared failed in the whole run."""
    for event in history.said(AgentFailed, 0.0):
        life = (str(event.agent), str(event.incarnation))
        if life not in expected:
            yield f"{event.agent} was declared failed at {event.at:%H:%M:%S} without a fault"


def accounts(evidence: Evidence, submitted: int) -> Iterator[str]:
    """Compare the totals of the submitters with those of the first-wins reader."""
    ledger, client_history = evidence.history.ledger, evidence.client_history
    totals = {
        "tasks": submitted,
        "confirmed": len(client_history.confirmed),
        "terminal in the stream": ledger.terminal,
        "told to submitters": len(client_history.told),
    }
    if len(set(totals.values())) > 1:
        yield "the totals differ: " + ", ".join(f"{n} {what}" for what, n in totals.items())
    for task, told in client_history.contradicted.items():
        first = client_history.told[task]
        yield f"the submitter of {task} was told {first} first, and {told} later"
    for key in evidence.history.changed:
        yield f"the terminal state of {key.id} changed: another result became the first"
    if evidence.history.unreadable:
        yield f"{evidence.history.unreadable} records cannot be read"
