"""Changes of policies that are lost, doubled and overtaken on their way, in virtual time."""

import random
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from maniple.messages import Envelope
from maniple.timings import Timings
from maniple_dispatcher.pipeline.route import route_of
from maniple_policies import parse_policy
from maniple_policy.store import AHEAD
from simulated_policies import Policies
from virtual_time import World, seeds

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE_CHECK = Timings().policies.check * 1.2 + 5.0  # with its jitter; an answer may take its time
NAMES = ("a", "b", "c")


def document(world: World) -> dict[str, Any]:
    name = world.random.choice(NAMES)
    spec = {"seconds": world.random.uniform(1, 1000)}  # never the same twice
    rollout = {"percent": world.random.randint(0, 100)}
    more = {"rollout": rollout} if world.random.random() < 0.4 else {}
    return {"kind": "timeout", "name": name, "match": {"capability": name}, "spec": spec, **more}


def changes(world: World, policies: Policies, number: int, seconds: float) -> None:
    """Have so many changes made, at any replica, some of them at the same time."""
    for _ in range(number):
        change = document(world)
        deleted = world.random.random() < 0.15
        service = world.random.choice(policies.services)
        at = world.between(0.0, seconds)
        world.after(at, partial(service.change, change, deleted=deleted))


def trouble(world: World, policies: Policies) -> None:
    """Do something to one of the processes; whoever loses its connection loses what was for it."""
    follower = world.random.choice(policies.followers)
    processes = [follower.process, *(service.process for service in policies.services)]
    process = world.random.choice(processes)
    seconds = world.between(0.5, 12.0)
    what = world.random.choice(["freeze", "cut", "restart", "broker", "lose"])
    if what == "freeze":
        policies.broker.freeze(process, seconds)
    elif what == "cut":
        policies.broker.cut(process, seconds)
    elif what == "restart":
        policies.restart(follower)
    elif what == "broker":
        policies.broker.restart()
    else:
        for wire in policies.broker.of(process):
            wire.lose()


@pytest.mark.parametrize("chunk", seeds(40), ids=str)
def test_all_end_with_the_same_policies_within_one_check_whatever_was_lost_on_the_way(
    chunk: range,
) -> None:
    for seed in chunk:
        with World(seed) as world, Policies(world) as policies:
            policies.start(services=2, followers=3)
            world.run(2.0)
            changes(world, policies, 8, 10.0)
            for _ in range(4):
                world.after(world.between(0.0, 10.0), partial(trouble, world, policies))
            world.run(23.0)
            world.run(ONE_CHECK)
            assert len(policies.digests()) == 1


@pytest.mark.parametrize("chunk", seeds(40), ids=str)
def test_while_all_is_well_a_change_is_in_force_everywhere_within_a_second(chunk: range) -> None:
    for seed in chunk:
        with World(seed) as world, Policies(world) as policies:
            policies.start(services=2, followers=3)
            world.run(2.0)
            for _ in range(4):
                before = policies.digests()
                world.random.choice(policies.services).change(document(world))
                world.run(1.0)
                assert len(policies.digests()) == 1
                assert policies.digests() != before
                world.run(world.between(0.0, 3.0))


def test_nobody_goes_back_to_an_older_version_while_a_replica_is_cut_off_from_consul() -> None:
    for seed in range(10):
        with World(seed) as world, Policies(world) as policies:
            policies.start(services=2, followers=3)
            world.run(2.0)
            change = {"kind": "timeout", "name": "a", "spec": {"seconds": 1}}
            policies.services[0].change(change)
            world.run(5.0)
            policies.services[1].consul.away_until = world.now + 200.0
            policies.services[0].change({**change, "spec": {"seconds": 2}})
            world.run(2.0)
            assert [service.store.current for service in policies.services] == [True, False]
            seen: dict[str, int] = {}
            for _ in range(150):
                world.run(1.0)
                for follower in policies.followers:
                    version = follower.view.current.versions["timeout/a"]
                    assert version >= seen.get(follower.name, 0), follower.name
                    seen[follower.name] = version


def test_what_is_deleted_does_not_come_back_while_a_replica_is_cut_off_from_consul() -> None:
    for seed in range(10):
        with World(seed) as world, Policies(world) as policies:
            policies.start(services=2, followers=3)
            world.run(2.0)
            change = {"kind": "timeout", "name": "a", "spec": {"seconds": 1}}
            policies.services[0].change(change)
            world.run(5.0)
            policies.services[1].consul.away_until = world.now + 200.0
            policies.services[0].change(change, deleted=True)
            world.run(2.0)
            for _ in range(150):
                world.run(1.0)
                assert not any(one.view.current.policies for one in policies.followers)


class Revisions:
    """Which revision each process ran, in each of its lives, and what stood in it."""

    def __init__(self, world: World, policies: Policies) -> None:
        self.policies = policies
        self.latest: dict[object, int] = {}
        self.digests: dict[int, str] = {}
        world.every(0.02, self._look)

    def _look(self) -> None:
        lives = [one.view for one in self.policies.followers if hasattr(one, "view")]
        for life in lives:
            policies = life.current
            if policies.revision is None:  # it has just begun
                continue
            assert policies.revision >= self.latest.get(life, 0), life
            self.latest[life] = policies.revision
            # What stands under a revision is always the same.
            told = self.digests.setdefault(policies.revision, policies.digest)
            assert told == policies.digest, policies.revision


@pytest.mark.parametrize("chunk", seeds(40), ids=str)
def test_the_revision_of_a_process_only_rises_whatever_is_lost_and_whoever_is_cut_off(
    chunk: range,
) -> None:
    for seed in chunk:
        with World(seed) as world, Policies(world) as policies:
            policies.start(services=3, followers=3)
            revisions = Revisions(world, policies)
            world.run(2.0)
            changes(world, policies, 12, 60.0)
            for _ in range(4):
                world.after(world.between(0.0, 60.0), partial(trouble, world, policies))
            for service in policies.services[1:]:
                service.consul.away_until = world.now + world.between(0.0, 120.0)
            world.run(120.0 + ONE_CHECK)
            assert len(policies.digests()) == 1
            assert revisions.latest


@pytest.mark.parametrize("kept", [0, 1], ids=["nothing", "an older snapshot"])
def test_what_consul_and_all_disks_have_lost_stays_in_force_until_a_change_that_all_take(
    kept: int,
) -> None:
    change = {"kind": "timeout", "name": "a", "spec": {"seconds": 1}}
    other = {**change, "name": "b", "match": {"capability": "b"}}
    with World(0) as world, Policies(world) as policies:
        policies.start(services=2, followers=3)
        world.run(2.0)
        policies.services[0].change(change)
        world.run(2.0)
        snapshot = dict(policies.consul.keys) if kept else {}
        for seconds in (2, 3):
            policies.services[0].change({**change, "spec": {"seconds": seconds}})
            world.run(2.0)
        policies.lose(snapshot)
        for _ in range(100):
            world.run(1.0)
            for follower in policies.followers:
                assert follower.view.current.versions == {"timeout/a": 3}
        assert not policies.services[0].health.components[AHEAD]
        policies.services[0].change(other)
        world.run(2.0)
        assert len(policies.digests()) == 1
        for follower in policies.followers:
            assert follower.view.current.versions["timeout/b"] > 3
        world.run(ONE_CHECK)
        assert policies.services[0].health.components[AHEAD]


def task(key: str) -> Envelope:
    return Envelope(
        id=key, capability="c", lane="c", labels={"user": key}, submitted_at=NOW, deadline=NOW
    )


def route(weights: list[int], version: int) -> Any:
    variants = [{"variant": v, "weight": w} for v, w in zip((None, "x"), weights, strict=True)]
    spec = {"variants": variants, "sticky": "label:user"}
    return parse_policy({"kind": "route", "name": "r", "version": version, "spec": spec})


@pytest.mark.parametrize("chunk", seeds(1000), ids=str)
def test_sticky_keys_move_only_with_the_weights_and_only_towards_what_grows(chunk: range) -> None:
    for seed in chunk:
        chance = random.Random(seed)
        before = [chance.randint(1, 99), chance.randint(1, 99)]
        after = [before[0], before[1] + chance.choice([0, chance.randint(1, 200)])]
        for number in range(20):
            key = f"{seed}-{number}"
            old = route_of(route(before, 1), task(key))
            new = route_of(route(after, 2), task(key))
            assert old == new or (before != after and new == "c@x"), (seed, before, after, key)
