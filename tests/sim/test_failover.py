"""Registries that die, freeze, crawl, or start late while agents end, in virtual time."""

from collections import defaultdict
from functools import partial

import pytest

from maniple.timings import Bounds, Standby
from maniple_registry.domain.agent_record import FINAL
from maniple_runtime.events import AgentFailed
from simulated_cluster import Agent, Cluster, Registry
from virtual_time import World, seeds

BOUND, GRACE = Bounds().failed, Standby().grace
SLACK = 0.4  # of looks 0.1 s apart, and of messages that take up to 0.05 s each way
AGENTS = 6
SETTLED = 6.0


def trouble(world: World, cluster: Cluster, registry: Registry) -> None:
    """Do something to one registry, by chance."""
    process, seconds = registry.process, world.between(0.2, 20.0)
    what = world.random.choice(["kill", "freeze", "cut", "slow", "stall"])
    if what == "kill":
        cluster.broker.kill(process)
    elif what == "freeze":
        cluster.broker.freeze(process, seconds)
    elif what == "cut":
        cluster.broker.cut(process, seconds)
    elif what == "slow":
        process.slow(seconds, 0.5)
    else:
        cluster.consul.away_until = world.now + seconds  # nobody leads


def ends(world: World, agent: Agent) -> None:
    """Kill, freeze or cut off an agent for longer than it may be."""
    do = world.random.choice([agent.kill, None, None])
    seconds = world.between(12.0, 30.0)
    if do is not None:
        do()
    elif world.random.random() < 0.5:
        agent.freeze(seconds)
    else:
        agent.cut(seconds)


def stumbles(world: World, cluster: Cluster, agent: Agent) -> None:
    """Trouble an agent as it may be: three heartbeats are not missed by that."""
    seconds = world.between(0.5, 5.0)
    what = world.random.choice([cluster.broker.freeze, cluster.broker.cut, None])
    if what is not None:
        what(agent.process, seconds)
    else:
        agent.process.slow(10.0, 0.3)


class Story:
    """Two registries, perhaps a third, of which one has trouble; some agents end, some stumble."""

    def __init__(self, world: World, cluster: Cluster) -> None:
        self.world, self.cluster = world, cluster
        self.ending: list[Agent] = []
        self.finals: defaultdict[Registry, set[tuple[str, str]]] = defaultdict(set)
        self.revived: list[tuple[str, str, str]] = []
        for name in ("r1", "r2"):
            cluster.registry(name)
        for number in range(AGENTS):
            world.after(world.between(0, 1.5), partial(cluster.agent, f"a{number}"))
        world.run(SETTLED)
        agents = world.random.sample(cluster.agents, AGENTS)
        self.ending = agents[: world.random.randint(1, 3)]
        for agent in self.ending:
            world.after(world.between(0, 6.0), partial(ends, world, agent))
        for agent in agents[3:]:
            world.after(world.between(0, 8.0), partial(stumbles, world, cluster, agent))
        troubled = world.random.choice(cluster.registries)
        for _ in range(world.random.randint(1, 2)):
            world.after(world.between(0, 16.0), partial(trouble, world, cluster, troubled))
        if world.random.random() < 0.4:
            world.after(world.between(0, 14.0), partial(cluster.registry, "r3"))
        world.every(0.05, self._look)

    def _look(self) -> None:
        for registry in self.cluster.registries:
            if registry.process.dead or registry.process not in self.cluster.handlers:
                continue
            for agent in self.cluster.agents:
                seen = registry.state(agent.name)
                if seen is not None and seen[1] in FINAL:
                    self.finals[registry].add((agent.name, seen[0]))
                elif seen is not None and (agent.name, seen[0]) in self.finals[registry]:
                    self.revived.append((registry.name, agent.name, seen[0]))

    def check_ids(self, failures: list[tuple[float, str]]) -> None:
        """One end has one id; only who began after it may not know which life it was."""
        unknown = [one for one in failures if one[1].endswith(":")]
        assert len({event_id for _, event_id in set(failures) - set(unknown)}) <= 1
        assert not unknown or len(self.cluster.registries) == 3
        # Whoever has been told of the life does not tell of an unknown one any more.
        assert all(failures[0] == one or one[0] - failures[0][0] < GRACE for one in unknown)

    def failures(self) -> dict[str, list[tuple[float, str]]]:
        """Return, by agent, when it was told that it has failed, and under which ids."""
        found: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
        for at, event in self.cluster.broker.events:
            if isinstance(event, AgentFailed):
                found[event.agent].append((at, event.id))
        return found


@pytest.mark.parametrize("chunk", seeds(80), ids=str)
def test_who_ends_is_failed_in_time_and_nobody_else_whatever_one_registry_suffers(
    chunk: range,
) -> None:
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            story = Story(world, cluster)
            world.run(6.0 + BOUND + GRACE + SLACK)
            failures = story.failures()
            assert failures.keys() == {agent.name for agent in story.ending}
            for agent in story.ending:
                assert agent.died_at is not None
                first = min(failures[agent.name])[0]
                assert first <= agent.died_at + BOUND + GRACE + SLACK, agent.name
                story.check_ids(failures[agent.name])


@pytest.mark.parametrize("chunk", seeds(24), ids=str)
def test_who_comes_back_is_another_life_and_the_old_one_is_never_active_again(chunk: range) -> None:
    for seed in chunk:
        with World(seed) as world, Cluster(world) as cluster:
            story = Story(world, cluster)
            before = {agent: agent.incarnation for agent in story.ending}
            world.run(50.0)
            assert not story.revived
            for agent in story.ending:
                later = agent.lives_known()
                assert later == (set() if agent.process.dead else {agent.incarnation})
                assert before[agent] not in later
            for agent in set(cluster.agents) - set(story.ending):
                assert agent.lives_known() == {agent.incarnation}
