"""A registry whose connection stands and carries nothing: it fails nobody, and says so."""

from itertools import product
from typing import Any

import pytest

from maniple.timings import Timings
from maniple_registry.heartbeat_consumer import COMPONENT
from simulated_broker import SILENCE
from simulated_cluster import Cluster, Registry
from virtual_time import World, seeds

TIMES = Timings()
PERIOD = 3.3
LOOK = 0.3


def said(registry: Registry) -> dict[str, Any]:
    component: dict[str, Any] = registry.health.snapshot()["components"][COMPONENT]
    return component


@pytest.mark.parametrize("chunk", seeds(50), ids=str)
def test_a_deaf_registry_says_so_fails_nobody_and_counts_on_once_it_hears(chunk: range) -> None:
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            registry = cluster.begun(6)
            assert said(registry)["ok"]
            agent = world.random.choice(cluster.agents)
            deaf = world.between(1.0, 20.0)
            cluster.broker.cut(registry.process, deaf)
            world.after(world.between(0.0, deaf), agent.kill)
            late = min(SILENCE[1], PERIOD + TIMES.bounds.unreachable + TIMES.watching.echo) + LOOK
            said_so = not said(registry)["ok"]
            if deaf > late:
                world.run(late)
                said_so = not said(registry)["ok"]
                assert said_so
                assert not cluster.failures()
                world.run(deaf - late)
            else:
                world.run(deaf)
            assert not cluster.failures()
            world.run(1.0)
            assert said(registry)["ok"]
            world.run(TIMES.bounds.failed + PERIOD)
            assert cluster.failures().keys() == {agent.name}


@pytest.mark.parametrize("chunk", seeds(50), ids=str)
def test_who_stumbled_just_before_a_registry_went_deaf_is_not_failed_by_it(chunk: range) -> None:
    """Few are silent, so that it is no storm; but one of them was there when we did not hear."""
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            registry = cluster.begun(4)
            stumbling = cluster.agents[0]
            seconds = world.between(3.0, 5.0)
            cluster.broker.cut(stumbling.process, seconds)
            world.run(seconds + world.between(-0.5, 0.5))
            cluster.broker.cut(registry.process, world.between(1.0, 7.5))
            world.run(20.0)
            assert not cluster.failures()


@pytest.mark.parametrize("number", [2, 3, 4, 6, 12])
@pytest.mark.parametrize("chunk", seeds(60), ids=str)
def test_nobody_is_failed_by_a_registry_whose_connection_is_dead_and_a_new_one_works(
    chunk: range, number: int
) -> None:
    """Its echo then comes by the new one: what agents said to the old one is gone."""
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            registry = cluster.begun(number)
            cluster.broker.forget(registry.process)
            world.run(SILENCE[1] + 15.0)
            assert not cluster.failures()


@pytest.mark.parametrize(
    ("way", "number", "ways"),
    [
        *product([0.4, 0.51, 1.0], [1, 2, 6, 40], [6]),
        # Few say nothing for the 3 s of an echo; of 40 some are told two ways later (seed 2).
        *product([2.0], [6, 40], [8]),
    ],
)
@pytest.mark.parametrize("chunk", seeds(4), ids=str)
def test_who_is_killed_is_failed_and_nobody_else_however_long_each_message_takes(
    chunk: range, way: float, number: int, ways: int
) -> None:
    for seed in chunk:
        with World(seed) as world, Cluster(world, lambda: way) as cluster:
            cluster.registry("r1")
            agents = [cluster.agent(f"a{which}", fenced=False) for which in range(number)]
            world.run(8.0 + world.between(0.0, 3.0))
            gone = agents[: max(1, number // 6)]
            for agent in gone:
                world.after(world.between(0.0, 2.0), agent.kill)
            world.run(2.0 + TIMES.bounds.failed + PERIOD + ways * way + LOOK)
            assert set(cluster.failures()) == {agent.name for agent in gone}
            world.run(20.0)
            assert set(cluster.failures()) == {agent.name for agent in gone}
