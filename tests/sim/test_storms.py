"""Much of a fleet that falls silent together: the agents, or who should hear them."""

from functools import partial

import pytest

from maniple.timings import Timings
from maniple_registry.domain.mass_silence import ENOUGH
from simulated_cluster import Agent, Cluster
from virtual_time import World, seeds

TIMES = Timings()
BOUND, GRACE, ECHO = TIMES.bounds.failed, TIMES.standby.grace, TIMES.watching.echo
SLACK = 0.4
AGENTS = 9


def silence(world: World, agent: Agent) -> None:
    do = world.random.choice([agent.freeze, agent.cut, None])
    agent.kill() if do is None else do(40.0)


@pytest.mark.parametrize("chunk", seeds(40), ids=str)
def test_agents_that_fall_silent_together_are_failed_in_the_bound_and_the_time_of_an_echo(
    chunk: range,
) -> None:
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            for number in range(world.random.randint(1, 2)):
                cluster.registry(f"r{number}")
            for number in range(AGENTS):
                cluster.agent(f"a{number}", fenced=False)
            world.run(5.0 + world.between(0.0, 3.0))
            number = world.random.randint(ENOUGH, AGENTS)
            silent = world.random.sample(cluster.agents, number)
            for agent in silent:
                world.after(world.between(0.0, 1.0), partial(silence, world, agent))
            world.run(1.0 + BOUND + GRACE + ECHO + SLACK)
            first = cluster.failures()
            assert first.keys() == {agent.name for agent in silent}
            for agent in silent:
                assert agent.died_at is not None
                late = first[agent.name] - agent.died_at - BOUND - GRACE - SLACK
                assert late <= ECHO, agent.name


@pytest.mark.parametrize("chunk", seeds(40), ids=str)
def test_when_it_is_the_registry_that_hears_nothing_nobody_is_failed(chunk: range) -> None:
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            registry = cluster.begun(AGENTS)
            for _ in range(2):
                seconds = world.between(1.0, 18.0)
                what = world.random.choice([cluster.broker.cut, cluster.broker.freeze, None])
                if what is None:
                    cluster.broker.stall(min(seconds, 7.0))
                else:
                    what(registry.process, seconds)
                world.run(world.between(0.5, 15.0))
            world.run(15.0)
            assert not cluster.failures()
            states = {registry.state(agent.name) for agent in cluster.agents}
            assert states == {(agent.incarnation, "active") for agent in cluster.agents}
