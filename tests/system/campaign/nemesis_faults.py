"""What the nemesis does: each function here is one fault, from its beginning to its end."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

from faults import close_connections, frozen, restart_broker
from holding import held, meanwhile
from maniple.topology import Queue
from maniple_cli.dev_cluster.cluster import ServiceProcess
from maniple_cli.dev_cluster.http import fetch
from maniple_runtime.records import TaskKey
from rabbitmqctl import Commanded, suspended
from system.campaign.nemesis import CHOICE_SECONDS, MISTAKEN, Nemesis, is_there
from system.campaign.policies import ALL, CHANGED, SECONDS
from system.campaign.workload import SPLIT
from system.campaign_handlers import OUTLIVES
from waiting import wait_until

DISPATCHER = "dispatcher"
STARTED = 50
ASKED, LIMIT = 1600, 400  # tasks of its own that a fault submits, and that a limit lets through
REFUSED = 200  # of them, when all dispatchers are killed
KEPT_WITHIN = 2.0  # seconds after which what a limit has left is in Consul
# Share of a limit that may die with a dispatcher: what it had been given for tasks in its hands.
UNUSED = 0.6
FORGIVEN = 0.1  # share that its heir may give besides, of which it was not told
LASTS = 3.0  # seconds that each of them takes
LIMITED_TTL, ENDED_WITHIN = 30.0, 60.0
CHANGE_EVERY = 2.0
CONSUL_SECONDS = 20.0
SUSPECTED_WITHIN = 6.0
UNDECIDED = 4.2  # after an agent is suspected; the registry acts 4.5 s after that

Injection = Callable[[Nemesis], Awaitable[None]]


async def nothing(nemesis: Nemesis) -> None:
    """For comparison."""
    nemesis.strike()
    nemesis.over()


def last(seconds: float) -> Injection:
    """No more than what the row's tasks do."""

    async def inject(nemesis: Nemesis) -> None:
        nemesis.strike()
        await asyncio.sleep(seconds)
        nemesis.over()

    return inject


def kill_agents(count: int) -> Injection:
    async def inject(nemesis: Nemesis) -> None:
        victims = await nemesis.working_agents(count)
        nemesis.strike(*victims)
        for victim in victims:
            nemesis.kill(victim.child)
        nemesis.over()

    return inject


def kill_one_of(service: str) -> Injection:
    async def inject(nemesis: Nemesis) -> None:
        victim = nemesis.service(service)
        nemesis.strike()
        nemesis.kill(victim.child)
        nemesis.over()

    return inject


async def kill_leader(nemesis: Nemesis) -> None:
    leader = await nemesis.leader()
    nemesis.strike()
    nemesis.kill(leader.child)
    nemesis.over()


def freeze_agent(seconds: float) -> Injection:
    async def inject(nemesis: Nemesis) -> None:
        (victim,) = await nemesis.working_agents()
        nemesis.strike(victim)
        with held(victim.child.pid):
            await asyncio.sleep(seconds)
        nemesis.over()

    return inject


def freeze_agent_and_kill_leader(seconds: float) -> Injection:
    """It dies when it knows all and has done nothing yet: another has to act in its place."""

    async def inject(nemesis: Nemesis) -> None:
        (victim,) = await nemesis.working_agents()
        nemesis.strike(victim)
        with held(victim.child.pid):
            suspected = await nemesis.suspected(victim, SUSPECTED_WITHIN)
            leader = await nemesis.leader()
            await asyncio.sleep(max(0.0, suspected + UNDECIDED - time.time()))
            nemesis.incident.undecided_until = time.time()
            nemesis.kill(leader.child)
            await asyncio.sleep(max(0.0, nemesis.incident.struck + seconds - time.time()))
        nemesis.over()

    return inject


def cut_off_agent(seconds: float) -> Injection:
    """A cut that neither side is told of."""

    async def inject(nemesis: Nemesis) -> None:
        (victim,) = await nemesis.working_agents()
        nemesis.strike(victim)
        async with frozen(nemesis.network, f"{victim.instance}.") as wires:
            if not wires:
                nemesis.incident.problems.append("no connection was cut")
            await asyncio.sleep(seconds)
        nemesis.over()

    return inject


async def reset_agent(nemesis: Nemesis) -> None:
    (victim,) = nemesis.agents()
    nemesis.strike(victim)
    if not nemesis.network.cut(f"{victim.instance}."):
        nemesis.incident.problems.append("no connection was reset")
    nemesis.over()


def close_all_of(owner: str) -> Injection:
    """Close connections through the management API; an owner is a service, or "" for all."""

    async def inject(nemesis: Nemesis) -> None:
        victims = nemesis.agents() if owner == "agent" else []
        name = f"{victims[0].instance}." if victims else owner
        await nemesis.broker.administrator()  # before the fault, as it takes some seconds
        nemesis.strike(*victims)
        closed = await close_connections(nemesis.broker, name)
        expected = 1 if victims else len(nemesis.cluster.processes)
        if closed < expected:
            nemesis.incident.problems.append(f"only {closed} connections were closed")
        nemesis.over()

    return inject


def freeze_service(service: str, seconds: float, *, one: bool = False) -> Injection:
    """Freeze all processes of a service, or only one."""

    async def inject(nemesis: Nemesis) -> None:
        victims = [nemesis.service(service)] if one else nemesis.cluster.of_service(service)
        nemesis.strike()
        with held(*(victim.child.pid for victim in victims)):
            await asyncio.sleep(seconds)
        nemesis.over()

    return inject


def freeze_consul(seconds: float) -> Injection:
    """It is there, takes every request and answers none."""

    async def inject(nemesis: Nemesis) -> None:
        nemesis.strike()
        with held(nemesis.consul.pid):
            await asyncio.sleep(seconds)
        nemesis.over()

    return inject


def end_broker(*, kill: bool) -> Injection:
    async def inject(nemesis: Nemesis) -> None:
        nemesis.strike()
        await restart_broker(nemesis.broker, kill=kill)
        nemesis.over()

    return inject


def alarm(
    kind: Callable[[Commanded], AbstractAsyncContextManager[None]], seconds: float
) -> Injection:
    async def inject(nemesis: Nemesis) -> None:
        async with kind(nemesis.broker):
            nemesis.strike()
            await nemesis.confirm(
                nemesis.holds_back, seconds, "nothing says that the broker held back a publish"
            )
            await asyncio.sleep(max(0.0, nemesis.incident.struck + seconds - time.time()))
        nemesis.over()

    return inject


def silence(queues: Sequence[Queue], seconds: float) -> Injection:
    """Have one queue after the other answer nobody for so long, as without its leader."""

    async def inject(nemesis: Nemesis) -> None:
        nemesis.strike()
        for queue in queues:
            async with suspended(nemesis.broker, nemesis.broker.environment, queue.name):
                await asyncio.sleep(seconds)
        nemesis.over()

    return inject


def stall_broker(*seconds: float, pause: float = 3.0) -> Injection:
    """Freeze the broker some times, each so long: it says nothing, and closes nothing."""

    async def inject(nemesis: Nemesis) -> None:
        nemesis.strike()
        for number, lasts in enumerate(seconds):
            await asyncio.sleep(pause if number else 0.0)
            await nemesis.broker.freeze()
            try:
                await asyncio.sleep(lasts)
            finally:
                await nemesis.broker.unfreeze()
        nemesis.over()

    return inject


def end_consul(away: float = 0.0) -> Injection:
    """It keeps nothing: it comes back empty."""

    async def inject(nemesis: Nemesis) -> None:
        consul = nemesis.consul
        nemesis.strike()
        consul.restart = False
        nemesis.kill(consul)
        await wait_until(lambda: not consul.running, CONSUL_SECONDS)
        await asyncio.sleep(away)
        await consul.start_process()
        consul.restart = True
        await wait_until(nemesis.consul_answers, CONSUL_SECONDS)
        nemesis.over()

    return inject


async def kill_agent_with_child(nemesis: Nemesis) -> None:
    """Kill an agent whose handler has forked a child, which lives on."""
    (victim,) = await nemesis.working_agents()
    child = await nemesis.child_of(victim)
    nemesis.strike(victim)
    nemesis.kill(victim.child)
    await asyncio.sleep(OUTLIVES / 2)
    if not is_there(child):
        nemesis.incident.problems.append("its child did not outlive it")
    nemesis.over()


def mistake_time(seconds: float, lasts: float) -> Injection:
    """Kill an agent, and have its next life begin with a clock that is ahead by so much."""

    async def inject(nemesis: Nemesis) -> None:
        (victim,) = await nemesis.at_work(nemesis.cluster.process(MISTAKEN))
        nemesis.strike(victim)
        nemesis.set_clock(seconds)
        nemesis.kill(victim.child)
        await nemesis.confirm(
            lambda: _says(victim, f"{seconds:.0f} s ahead of"),
            lasts,
            f"{victim.instance} does not say that its clock is wrong",
        )
        await asyncio.sleep(max(0.0, nemesis.incident.struck + lasts - time.time()))
        nemesis.set_clock(0.0)
        nemesis.over()

    return inject


async def _says(process: ServiceProcess, words: str) -> bool:
    _, page = await fetch(f"{process.http}/health")
    return words in page


def cut_policies_off(seconds: float) -> Injection:
    """Cut one of two policy services off from Consul, and go on changing a policy."""

    async def inject(nemesis: Nemesis) -> None:
        kind, name = CHANGED
        seen: dict[str, list[int]] = {
            p.instance: [] for p in nemesis.cluster.of_service(DISPATCHER)
        }
        nemesis.strike()
        async with frozen(nemesis.consul_network) as wires, meanwhile(_versions(nemesis, seen)):
            if not wires:
                nemesis.incident.problems.append("no connection was cut")
            changes = 0
            while time.time() < nemesis.incident.struck + seconds:
                changes += 1
                wanted = {"seconds": SECONDS | {"max": SECONDS["max"] + changes}}
                await nemesis.change(kind, name, wanted, match=ALL)
                await asyncio.sleep(CHANGE_EVERY)
        nemesis.over()
        for dispatcher, versions in seen.items():
            if versions != sorted(versions) or len(set(versions)) < changes:
                nemesis.incident.problems.append(f"{dispatcher} went by the versions {versions}")

    return inject


async def _versions(nemesis: Nemesis, seen: Mapping[str, list[int]]) -> None:
    """Note each change of the version that a dispatcher goes by."""
    while True:
        for process in nemesis.cluster.of_service(DISPATCHER):
            _, page = await fetch(f"{process.http}/health")
            with contextlib.suppress(ValueError):
                version = json.loads(page)["versions"].get("/".join(CHANGED), 0)
                if seen[process.instance][-1:] != [version]:
                    seen[process.instance].append(version)
        await asyncio.sleep(0.1)


def kill_under_limit(*, all_of_them: bool) -> Injection:
    """Kill dispatchers among more tasks than a limit lets through, of a tenant of their own.

    One of them is killed while tasks are let through, or all while those that follow are refused.
    What comes again may have been let through, or refused: it stays so. What nobody decides
    meanwhile waits, and some of it begins when hardly any of its time is left, until that is over.
    """

    async def inject(nemesis: Nemesis) -> None:
        tenant, client = f"limited-{nemesis.chance.randrange(10**9)}", nemesis.world.client
        keys = [TaskKey(tenant, f"{tenant}-{number}") for number in range(ASKED)]
        spec = {"limit": LIMIT, "period": 3600, "over": "reject"}
        match = {"capability": SPLIT, "tenant": tenant}
        victims = nemesis.cluster.of_service(DISPATCHER) if all_of_them else []
        first = keys[:LIMIT] if all_of_them else keys
        async with nemesis.world.policy("rate_limit", tenant, spec, match=match):
            async with asyncio.TaskGroup() as group:
                submit = partial(client.submit, SPLIT, LASTS, tenant=tenant, ttl=LIMITED_TTL)
                for key in first:
                    group.create_task(submit(id=key.id))
                await nemesis.confirm(
                    lambda: nemesis.ran(keys) > STARTED, CHOICE_SECONDS, "too few were started"
                )
                if all_of_them:
                    await asyncio.sleep(KEPT_WITHIN)
                for key in keys[len(first) :]:
                    group.create_task(submit(id=key.id))
                if all_of_them:
                    await nemesis.confirm(
                        lambda: nemesis.refused(keys) > REFUSED,
                        CHOICE_SECONDS,
                        "too few were refused",
                    )
                nemesis.strike()
                for victim in victims or [nemesis.service(DISPATCHER)]:
                    nemesis.kill(victim.child)
            nemesis.over()
            await nemesis.confirm(
                lambda: nemesis.has_ended(keys), ENDED_WITHIN, "not all have ended"
            )
        nemesis.incident.problems.extend(nemesis.refused_wrongly(keys))
        unused = FORGIVEN if all_of_them else UNUSED
        if not LIMIT * (1 - unused) <= nemesis.ran(keys) <= LIMIT * (1 + FORGIVEN):
            nemesis.incident.problems.append(
                f"{nemesis.ran(keys)} of {ASKED} ran under a limit of {LIMIT}"
            )

    return inject
