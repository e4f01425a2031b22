"""Agents that beat and take nothing, and queues that answer nothing, in virtual time."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from maniple.amqp import Consumer, QueueView
from maniple.task_registry import TaskRegistry
from maniple.tasks import Executor, task
from maniple.timings import Timings
from maniple.topology import Queue, lane_queues
from maniple_agent.lane_consumers import LaneConsumers
from maniple_runtime.control.messages import Reconnect
from simulated_cluster import Agent, Cluster
from virtual_time import World, seeds

TIMES = Timings()
BOUNDS, LOOK = TIMES.bounds, TIMES.watching.look
GRACE, RECONNECT_GRACE = TIMES.standby.grace, TIMES.standby.reconnect_grace
PERIOD = 3.3
SLACK = 0.5


def fleet(world: World, cluster: Cluster, lanes: tuple[str, ...], number: int) -> None:
    """Start registries and agents that serve these lanes, with empty queues that are consumed."""
    for which in range(world.random.randint(1, 2)):
        cluster.registry(f"r{which}")
    for which in range(number):
        agent = cluster.agent(f"a{which}", fenced=False, capabilities=lanes, lanes=lanes)
        agent.open_lanes = lanes
    for lane in lanes:
        fill(cluster, lane, 0, number)
    world.run(BOUNDS.settling + PERIOD + world.between(0.0, 3.0))


def fill(cluster: Cluster, lane: str, ready: int, consumers: int) -> None:
    plain, suspects = lane_queues(lane)
    cluster.broker.queues[plain.name] = QueueView(ready, consumers)
    cluster.broker.queues[suspects.name] = QueueView(0, consumers)


def eats(world: World, agent: Agent, period: float) -> None:
    """Make an agent take something again and again."""
    world.every(period, agent.ate)


def told(agent: Agent, since: float) -> list[float]:
    """Return after how many seconds an agent was told to reconnect."""
    return [
        at - since
        for at, command in agent.told
        if isinstance(command, Reconnect) and not command.places
    ]


def asked(agent: Agent, place: str) -> list[float]:
    """Return when an agent was asked to consume a place anew."""
    return [
        at
        for at, command in agent.told
        if isinstance(command, Reconnect) and place in command.places
    ]


@pytest.mark.parametrize("chunk", seeds(40), ids=str)
def test_a_stalled_agent_is_told_to_reconnect_after_five_seconds_and_evicted_after_ten(
    chunk: range,
) -> None:
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            fleet(world, cluster, ("x",), 3)
            zombie, *others = cluster.agents
            for agent in others:
                eats(world, agent, world.between(0.2, 2.0))
            fill(cluster, "x", 5, world.random.choice([3, 2]))
            gone_after = BOUNDS.hopeless + 1
            if len(cluster.registries) > 1 and world.random.random() < 0.5:
                gone, gone_after = world.random.choice(cluster.registries), world.between(0.0, 12.0)
                world.after(gone_after, partial(cluster.broker.kill, gone.process))
            since = world.now
            wires = {wire for one in cluster.agents for wire in cluster.broker.of(one.process)}
            world.run(BOUNDS.hopeless + 3 * LOOK + GRACE + SLACK)
            late = LOOK + PERIOD + RECONNECT_GRACE
            for reconnect in told(zombie, since)[:1]:
                assert BOUNDS.reconnect <= reconnect <= BOUNDS.reconnect + late
            # Another that leads instead waits whether it was told, for as long as it has left.
            soon = BOUNDS.reconnect <= gone_after <= BOUNDS.reconnect + LOOK + PERIOD
            assert told(zombie, since) or soon
            assert {wire for wire in wires if wire.losses} == set(cluster.broker.of(zombie.process))
            failed = cluster.failures()
            assert failed.keys() == {zombie.name}
            assert failed[zombie.name] - since >= BOUNDS.hopeless
            assert not any(told(agent, since) for agent in others)


@task("x")
async def x(payload: Any) -> Any:
    return payload


def told_without_a_link() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what an agent says of its lanes whose consuming connection is down."""

    def consume(queue: Queue, handle: Any, prefetch: int, **_: Any) -> Consumer:
        return Consumer(queue.name, handle, prefetch=prefetch)

    hot: Any = SimpleNamespace(consume=consume, intake=SimpleNamespace(is_up=False))
    ingress = SimpleNamespace(on_bundle=lambda *_, **__: None)
    work: Any = SimpleNamespace(ingress=ingress, connection_lost=lambda: None)
    lanes = LaneConsumers(
        "a0", TaskRegistry([x]), (), dict.fromkeys(Executor, 4), hot=hot, work=work
    )
    return lanes.hungry, lanes.unconsumed


@pytest.mark.parametrize("chunk", seeds(20), ids=str)
def test_an_agent_that_consumes_nothing_for_its_own_reasons_is_told_to_reconnect_and_evicted(
    chunk: range,
) -> None:
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            fleet(world, cluster, ("x",), 3)
            cut, *others = cluster.agents
            for agent in others:
                eats(world, agent, world.between(0.2, 2.0))
            cut.open_lanes, cut.unconsumed = told_without_a_link()
            fill(cluster, "x", 5, 2)
            world.run(BOUNDS.hopeless + 3 * LOOK + PERIOD + GRACE + RECONNECT_GRACE + SLACK)
            assert told(cut, 0.0)
            assert cluster.failures().keys() == {cut.name}


@pytest.mark.parametrize("chunk", seeds(20), ids=str)
def test_who_takes_again_when_told_to_reconnect_is_not_evicted(chunk: range) -> None:
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            fleet(world, cluster, ("x",), 3)
            zombie, *others = cluster.agents
            for agent in others:
                eats(world, agent, world.between(0.2, 2.0))
            fill(cluster, "x", 5, 3)
            zombie.reconnects = partial(eats, world, zombie, 0.3)
            world.run(25.0)
            assert told(zombie, 0.0)
            assert not cluster.failures()
            assert {r.state("a0") for r in cluster.registries} == {(zombie.incarnation, "active")}


@pytest.mark.parametrize("fed", [True, False], ids=["others are busy", "all else is idle"])
@pytest.mark.parametrize("chunk", seeds(40), ids=str)
def test_a_silent_queue_evicts_nobody(chunk: range, fed: bool) -> None:
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            fleet(world, cluster, ("x", "y"), world.random.randint(2, 6))
            if fed:
                for agent in cluster.agents:
                    eats(world, agent, world.between(0.2, 2.0))
            cluster.broker.silent.update(queue.name for queue in lane_queues("y"))
            world.run(BOUNDS.hopeless + world.between(4.0, 10.0))
            assert not cluster.failures()


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("chunk", seeds(20), ids=str)
def test_a_silent_queue_has_nobody_reconnect_and_nobody_suspected(
    chunk: range, number: int
) -> None:
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            fleet(world, cluster, ("x", "y"), number)
            since = world.now
            cluster.broker.silent.update(queue.name for queue in lane_queues("y"))
            world.run(BOUNDS.hopeless + LOOK + PERIOD + RECONNECT_GRACE)
            for agent in cluster.agents:
                assert not any(told(agent, 0.0))
                assert asked(agent, "y") or asked(agent, "y.suspect")
                assert {r.state(agent.name) for r in cluster.registries} == {
                    (agent.incarnation, "active")
                }
            events = [event.KEY for at, event in cluster.broker.events if at >= since]
            assert "agent.unreachable" not in events
