"""What `maniple doctor` looks at; each check says what it found and what to do."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import requests

from maniple.cli.control import ask
from maniple.client import connect
from maniple.errors import BrokerUnavailable, ManipleError
from maniple.service.consul import Consul, ConsulRefused, ConsulUnavailable
from maniple.service.settings import environment_of
from maniple.topology import EXCHANGES, QUEUES
from maniple.transport.probe import BrokerView, probe

OLDEST_BROKER = (3, 10)
SERVICES = ("registry", "dispatcher", "policy", "agent")
TIMEOUT = 5.0
ECHO_TIMEOUT = 10.0


class Verdict(StrEnum):
    """How a check ended. A warning is no failure; what was skipped was not looked at."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What a check found, and for a failed one what to do."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Places:
    """Where to look; what is None is skipped."""

    broker: str
    consul: str | None = None
    management: str | None = None


async def examine(places: Places) -> AsyncIterator[Finding]:
    """Run all checks. Raises `BrokerUnavailable` when there is no broker to examine."""
    view = await probe(
        places.broker, [e.name for e in EXCHANGES], [q.name for q in QUEUES], timeout=TIMEOUT
    )
    yield _broker(places, view)
    yield _declared(view)
    yield await _arguments(places)
    for finding in await _consul(places):
        yield finding
    yield await _agents(places)
    yield await _echo(places)


def _broker(places: Places, view: BrokerView) -> Finding:
    found = f"{view.product} {view.version}, environment {environment_of(places.broker)!r}"
    if version_of(view.version) < OLDEST_BROKER:
        return Finding("broker", Verdict.FAILED, found, "upgrade RabbitMQ to 3.10 or later")
    return Finding("broker", Verdict.OK, found)


def version_of(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `3.10.8-1` is (3, 10, 8)."""
    numbers = []
    for part in text.split("-", maxsplit=1)[0].split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _declared(view: BrokerView) -> Finding:
    missing = (*view.missing_exchanges, *view.missing_queues)
    if not missing:
        found = f"{len(EXCHANGES)} exchanges and {len(QUEUES)} queues are there"
        return Finding("topology", Verdict.OK, found)
    return Finding(
        "topology",
        Verdict.FAILED,
        f"missing: {', '.join(missing)}",
        "start a dispatcher and a registry: they declare everything",
    )


async def _arguments(places: Places) -> Finding:
    if places.management is None:
        return Finding("queue arguments", Verdict.SKIPPED, "MANIPLE_MANAGEMENT_URL is not set")
    vhost = quote(environment_of(places.broker), safe="")
    try:
        queues = await _get(f"{places.management.rstrip('/')}/api/queues/{vhost}")
    except (requests.RequestException, ValueError) as error:
        return Finding(
            "queue arguments",
            Verdict.FAILED,
            f"management API: {error}",
            "check MANIPLE_MANAGEMENT_URL and that the user has the tag 'monitoring'",
        )
    wrong = wrong_arguments({q["name"]: q.get("arguments", {}) for q in queues})
    if not wrong:
        return Finding("queue arguments", Verdict.OK, "all as they should be")
    return Finding(
        "queue arguments",
        Verdict.FAILED,
        "; ".join(wrong),
        "stop Maniple, delete these queues once they are empty, and start it again",
    )


def wrong_arguments(present: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what differs between the queues that are there and those that should be."""
    wrong = []
    for queue in QUEUES:
        arguments = present.get(queue.name)
        if arguments is None:
            continue  # the topology check has said so
        for name, wanted in queue.all_arguments.items():
            if (has := arguments.get(name)) != wanted:
                wrong.append(f"{queue.name}: {name} is {has!r}, not {wanted!r}")
    return wrong


async def _get(url: str) -> Any:
    def get() -> Any:
        response = requests.get(url, timeout=TIMEOUT)
        response.raise_for_status()
        return response.json()

    return await asyncio.to_thread(get)


async def _consul(places: Places) -> list[Finding]:
    if places.consul is None:
        return [Finding("consul", Verdict.SKIPPED, "MANIPLE_CONSUL_URL is not set")]
    consul = Consul(places.consul)
    try:
        findings = [Finding("consul", Verdict.OK, f"answers at {places.consul}")]
        findings += [await _service(consul, service) for service in SERVICES]
    except (ConsulUnavailable, ConsulRefused) as error:
        advice = f"start Consul, or correct MANIPLE_CONSUL_URL ({places.consul})"
        return [Finding("consul", Verdict.FAILED, str(error), advice)]
    else:
        return findings
    finally:
        consul.close()


async def _service(consul: Consul, service: str) -> Finding:
    instances = await consul.instances(f"maniple-{service}")
    passing = [instance for instance in instances if instance.status == "passing"]
    sick = [f"{i.id} is {i.status}" for i in instances if i.status != "passing"]
    if not passing:
        found = "; ".join(sick) or "none is registered"
        advice = f"start one with 'python -m maniple_{service}', or look at its log"
        return Finding(service, Verdict.FAILED, found, advice)
    found = f"{len(passing)} healthy"
    if sick:
        return Finding(service, Verdict.WARNING, f"{found}; {'; '.join(sick)}", "look at its log")
    return Finding(service, Verdict.OK, found)


async def _agents(places: Places) -> Finding:
    try:
        agents = (await ask(places.broker, "registry", "agents")).get("agents", [])
    except ManipleError as error:
        return Finding("membership", Verdict.FAILED, str(error), "start a registry")
    active = [a for a in agents if str(a.get("state", "")).lower() == "active"]
    found = f"{len(active)} of {len(agents)} agents are active"
    if not active:
        return Finding("membership", Verdict.FAILED, found, "start an agent")
    return Finding("membership", Verdict.OK, found)


async def _echo(places: Places) -> Finding:
    clock = asyncio.get_running_loop().time
    try:
        async with connect(places.broker) as client:
            started = clock()
            handle = await client.submit("maniple.echo", {"doctor": True}, ttl=ECHO_TIMEOUT)
            output = await handle.result(ECHO_TIMEOUT)
    except BrokerUnavailable:
        raise
    except ManipleError as error:
        advice = "start a dispatcher and an agent, or look at their logs"
        return Finding("echo task", Verdict.FAILED, str(error), advice)
    if output != {"doctor": True}:
        return Finding("echo task", Verdict.FAILED, f"came back as {output!r}", "check the agents")
    return Finding("echo task", Verdict.OK, f"there and back in {(clock() - started) * 1e3:.0f} ms")
