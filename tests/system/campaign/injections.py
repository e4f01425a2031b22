"""What is done to the cluster: each function here is one fault, from its beginning to its end."""

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
from system.campaign.plan import SPLIT
from system.campaign.policies import ALL, CHANGED, SECONDS
from system.campaign.scene import CHOICE_SECONDS, MISTAKEN, Scene, is_there
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

Injection = Callable[[Scene], Awaitable[None]]


async def nothing(scene: Scene) -> None:
    """For comparison."""
    scene.strike()
    scene.over()


def last(seconds: float) -> Injection:
    """No more than what the row's tasks do."""

    async def inject(scene: Scene) -> None:
        scene.strike()
        await asyncio.sleep(seconds)
        scene.over()

    return inject


def kill_agents(count: int) -> Injection:
    async def inject(scene: Scene) -> None:
        victims = await scene.working_agents(count)
        scene.strike(*victims)
        for victim in victims:
            scene.kill(victim.child)
        scene.over()

    return inject


def kill_one_of(service: str) -> Injection:
    async def inject(scene: Scene) -> None:
        victim = scene.service(service)
        scene.strike()
        scene.kill(victim.child)
        scene.over()

    return inject


async def kill_leader(scene: Scene) -> None:
    leader = await scene.leader()
    scene.strike()
    scene.kill(leader.child)
    scene.over()


def freeze_agent(seconds: float) -> Injection:
    async def inject(scene: Scene) -> None:
        (victim,) = await scene.working_agents()
        scene.strike(victim)
        with held(victim.child.pid):
            await asyncio.sleep(seconds)
        scene.over()

    return inject


def freeze_agent_and_kill_leader(seconds: float) -> Injection:
    """It dies when it knows all and has done nothing yet: another has to act in its place."""

    async def inject(scene: Scene) -> None:
        (victim,) = await scene.working_agents()
        scene.strike(victim)
        with held(victim.child.pid):
            suspected = await scene.suspected(victim, SUSPECTED_WITHIN)
            leader = await scene.leader()
            await asyncio.sleep(max(0.0, suspected + UNDECIDED - time.time()))
            scene.incident.undecided_until = time.time()
            scene.kill(leader.child)
            await asyncio.sleep(max(0.0, scene.incident.struck + seconds - time.time()))
        scene.over()

    return inject


def cut_off_agent(seconds: float) -> Injection:
    """A cut that neither side is told of."""

    async def inject(scene: Scene) -> None:
        (victim,) = await scene.working_agents()
        scene.strike(victim)
        async with frozen(scene.network, f"{victim.instance}.") as wires:
            if not wires:
                scene.incident.problems.append("no connection was cut")
            await asyncio.sleep(seconds)
        scene.over()

    return inject


async def reset_agent(scene: Scene) -> None:
    (victim,) = scene.agents()
    scene.strike(victim)
    if not scene.network.cut(f"{victim.instance}."):
        scene.incident.problems.append("no connection was reset")
    scene.over()


def close_all_of(owner: str) -> Injection:
    """Close connections through the management API; an owner is a service, or "" for all."""

    async def inject(scene: Scene) -> None:
        victims = scene.agents() if owner == "agent" else []
        name = f"{victims[0].instance}." if victims else owner
        await scene.broker.administrator()  # before the fault, as it takes some seconds
        scene.strike(*victims)
        closed = await close_connections(scene.broker, name)
        expected = 1 if victims else len(scene.cluster.processes)
        if closed < expected:
            scene.incident.problems.append(f"only {closed} connections were closed")
        scene.over()

    return inject


def freeze_service(service: str, seconds: float, *, one: bool = False) -> Injection:
    """Freeze all processes of a service, or only one."""

    async def inject(scene: Scene) -> None:
        victims = [scene.service(service)] if one else scene.cluster.of_service(service)
        scene.strike()
        with held(*(victim.child.pid for victim in victims)):
            await asyncio.sleep(seconds)
        scene.over()

    return inject


def freeze_consul(seconds: float) -> Injection:
    """It is there, takes every request and answers none."""

    async def inject(scene: Scene) -> None:
        scene.strike()
        with held(scene.consul.pid):
            await asyncio.sleep(seconds)
        scene.over()

    return inject


def end_broker(*, kill: bool) -> Injection:
    async def inject(scene: Scene) -> None:
        scene.strike()
        await restart_broker(scene.broker, kill=kill)
        scene.over()

    return inject


def alarm(
    kind: Callable[[Commanded], AbstractAsyncContextManager[None]], seconds: float
) -> Injection:
    async def inject(scene: Scene) -> None:
        async with kind(scene.broker):
            scene.strike()
            await scene.confirm(
                scene.holds_back, seconds, "nothing says that the broker held back a publish"
            )
            await asyncio.sleep(max(0.0, scene.incident.struck + seconds - time.time()))
        scene.over()

    return inject


def silence(queues: Sequence[Queue], seconds: float) -> Injection:
    """Have one queue after the other answer nobody for so long, as without its leader."""

    async def inject(scene: Scene) -> None:
        scene.strike()
        for queue in queues:
            async with suspended(scene.broker, scene.broker.environment, queue.name):
                await asyncio.sleep(seconds)
        scene.over()

    return inject


def stall_broker(*seconds: float, pause: float = 3.0) -> Injection:
    """Freeze the broker some times, each so long: it says nothing, and closes nothing."""

    async def inject(scene: Scene) -> None:
        scene.strike()
        for number, lasts in enumerate(seconds):
            await asyncio.sleep(pause if number else 0.0)
            await scene.broker.freeze()
            try:
                await asyncio.sleep(lasts)
            finally:
                await scene.broker.unfreeze()
        scene.over()

    return inject


def end_consul(away: float = 0.0) -> Injection:
    """It keeps nothing: it comes back empty."""

    async def inject(scene: Scene) -> None:
        consul = scene.consul
        scene.strike()
        consul.restart = False
        scene.kill(consul)
        await wait_until(lambda: not consul.running, CONSUL_SECONDS)
        await asyncio.sleep(away)
        await consul.start_process()
        consul.restart = True
        await wait_until(scene.consul_answers, CONSUL_SECONDS)
        scene.over()

    return inject


async def kill_agent_with_child(scene: Scene) -> None:
    """Kill an agent whose handler has forked a child, which lives on."""
    (victim,) = await scene.working_agents()
    child = await scene.child_of(victim)
    scene.strike(victim)
    scene.kill(victim.child)
    await asyncio.sleep(OUTLIVES / 2)
    if not is_there(child):
        scene.incident.problems.append("its child did not outlive it")
    scene.over()


def mistake_time(seconds: float, lasts: float) -> Injection:
    """Kill an agent, and have its next life begin with a clock that is ahead by so much."""

    async def inject(scene: Scene) -> None:
        (victim,) = await scene.at_work(scene.cluster.process(MISTAKEN))
        scene.strike(victim)
        scene.set_clock(seconds)
        scene.kill(victim.child)
        await scene.confirm(
            lambda: _says(victim, f"{seconds:.0f} s ahead of"),
            lasts,
            f"{victim.instance} does not say that its clock is wrong",
        )
        await asyncio.sleep(max(0.0, scene.incident.struck + lasts - time.time()))
        scene.set_clock(0.0)
        scene.over()

    return inject


async def _says(process: ServiceProcess, words: str) -> bool:
    _, page = await fetch(f"{process.http}/health")
    return words in page


def cut_policies_off(seconds: float) -> Injection:
    """Cut one of two policy services off from Consul, and go on changing a policy."""

    async def inject(scene: Scene) -> None:
        kind, name = CHANGED
        seen: dict[str, list[int]] = {p.instance: [] for p in scene.cluster.of_service(DISPATCHER)}
        scene.strike()
        async with frozen(scene.consul_network) as wires, meanwhile(_versions(scene, seen)):
            if not wires:
                scene.incident.problems.append("no connection was cut")
            changes = 0
            while time.time() < scene.incident.struck + seconds:
                changes += 1
                wanted = {"seconds": SECONDS | {"max": SECONDS["max"] + changes}}
                await scene.change(kind, name, wanted, match=ALL)
                await asyncio.sleep(CHANGE_EVERY)
        scene.over()
        for dispatcher, versions in seen.items():
            if versions != sorted(versions) or len(set(versions)) < changes:
                scene.incident.problems.append(f"{dispatcher} went by the versions {versions}")

    return inject


async def _versions(scene: Scene, seen: Mapping[str, list[int]]) -> None:
    """Note each change of the version that a dispatcher goes by."""
    while True:
        for process in scene.cluster.of_service(DISPATCHER):
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

    async def inject(scene: Scene) -> None:
        tenant, client = f"limited-{scene.chance.randrange(10**9)}", scene.world.client
        keys = [TaskKey(tenant, f"{tenant}-{number}") for number in range(ASKED)]
        spec = {"limit": LIMIT, "period": 3600, "over": "reject"}
        match = {"capability": SPLIT, "tenant": tenant}
        victims = scene.cluster.of_service(DISPATCHER) if all_of_them else []
        first = keys[:LIMIT] if all_of_them else keys
        async with scene.world.policy("rate_limit", tenant, spec, match=match):
            async with asyncio.TaskGroup() as group:
                submit = partial(client.submit, SPLIT, LASTS, tenant=tenant, ttl=LIMITED_TTL)
                for key in first:
                    group.create_task(submit(id=key.id))
                await scene.confirm(
                    lambda: scene.ran(keys) > STARTED, CHOICE_SECONDS, "too few were started"
                )
                if all_of_them:
                    await asyncio.sleep(KEPT_WITHIN)
                for key in keys[len(first) :]:
                    group.create_task(submit(id=key.id))
                if all_of_them:
                    await scene.confirm(
                        lambda: scene.refused(keys) > REFUSED,
                        CHOICE_SECONDS,
                        "too few were refused",
                    )
                scene.strike()
                for victim in victims or [scene.service(DISPATCHER)]:
                    scene.kill(victim.child)
            scene.over()
            await scene.confirm(lambda: scene.has_ended(keys), ENDED_WITHIN, "not all have ended")
        scene.incident.problems.extend(scene.refused_wrongly(keys))
        unused = FORGIVEN if all_of_them else UNUSED
        if not LIMIT * (1 - unused) <= scene.ran(keys) <= LIMIT * (1 + FORGIVEN):
            scene.incident.problems.append(
                f"{scene.ran(keys)} of {ASKED} ran under a limit of {LIMIT}"
            )

    return inject
