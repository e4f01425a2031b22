"""What is done to the cluster: each function here is one fault, from its beginning to its end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from faults import close_connections, frozen, restart_broker
from holding import held
from maniple.topology import Queue
from rabbitmqctl import Commanded, suspended
from system.campaign.scene import Scene
from waiting import wait_until

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
        await consul.start()
        consul.restart = True
        await wait_until(scene.consul_answers, CONSUL_SECONDS)
        scene.over()

    return inject
