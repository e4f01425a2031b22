"""A limit that dispatchers share while its owner dies, freezes, or is cut off, in virtual time."""

from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from maniple.amqp import QueueView
from maniple.messages import Waiting
from maniple.timings import Peers, Reports
from maniple.topology import agent_queue, lane_queues
from maniple_policies import Resolved
from simulated_dispatchers import LANE, Dispatchers, policy
from virtual_time import World, seeds

RATE, BURST = 40.0, 40.0
LIMITED = Resolved.from_policies(policy("rate_limit", {"limit": RATE, "burst": BURST}))
WIDE = Resolved.from_policies(policy("rate_limit", {"limit": 100_000}))
OVER: dict[str, Any] = {
    "reject": {"over": "reject"},
    "shape": {"over": "shape"},
    "degrade": {"over": "degrade", "variant": "cheap"},
}
GIVEN_UP = policy("fallback", {"value": "instead"})
EACH = {
    **{
        f"a rate limit, {name}": Resolved.from_policies(
            policy("rate_limit", {"limit": 100_000, **over}), GIVEN_UP
        )
        for name, over in OVER.items()
    },
    "a bulkhead": Resolved.from_policies(policy("bulkhead", {"max_in_flight": 100_000}), GIVEN_UP),
}
KEY = "rate_limit/it"
# Tokens by which an owner that dies or does not answer, and those who go on without it, may pass
# more together than rate and burst: what was left in the bucket, which later ones pay back.
BEYOND = BURST
MOST = 3
SETTLED = 2.5
WAYS = 0.5  # seconds for some ways to the broker and back


def trouble(world: World, dispatchers: Dispatchers) -> None:
    """Do something to one dispatcher, mostly to the owner."""
    alive = dispatchers.alive
    chosen = dispatchers.owner(KEY) if world.random.random() < 0.7 else world.random.choice(alive)
    what = world.random.choice(["kill", "freeze", "cut", "slow", "stall", "join"])
    seconds = world.between(0.2, 3.0)
    if what == "kill" and len(alive) > 2:
        dispatchers.broker.kill(chosen.process)
    elif what == "freeze":
        chosen.process.freeze(seconds)
    elif what == "cut":
        dispatchers.broker.cut(chosen.process, seconds)
    elif what == "slow":
        chosen.process.slow(seconds, 0.2)
    elif what == "stall":
        dispatchers.broker.stall(min(seconds, 1.5))
    else:
        dispatchers.start(f"d{len(dispatchers.all)}")


def load(world: World, dispatchers: Dispatchers, resolved: Resolved, gap: float) -> None:
    """Deliver tasks to all that can be reached: tasks come from the broker too."""

    def come() -> None:
        for one in dispatchers.alive:
            reached = dispatchers.broker.reaches(one.process) and one.undecided < 20
            if reached and world.random.random() < 0.7:
                one.admit(resolved, world.random.randint(1, 8))

    world.every(gap, come)


def most_beyond(passed: list[float]) -> float:
    """Return by how much more than rate and burst allow ever passed, in any window."""
    passed = sorted(passed)
    level, most, before = BURST, 0.0, passed[0] if passed else 0.0
    for at in passed:  # a bucket of our own that may be overdrawn
        level = min(BURST, level + (at - before) * RATE) - 1
        most, before = max(most, -level), at
    return most


@pytest.mark.parametrize("chunk", seeds(40), ids=str)
def test_no_more_passes_than_rate_and_burst_and_it_recovers_whatever_becomes_of_the_owner(
    chunk: range,
) -> None:
    for seed in chunk:
        with World(seed) as world, Dispatchers(world) as dispatchers:
            for number in range(MOST):
                dispatchers.start(f"d{number}")
            world.run(3.0)
            load(world, dispatchers, LIMITED, 0.1)
            world.run(1.0)
            for _ in range(2):
                world.after(world.between(0.0, 4.0), partial(trouble, world, dispatchers))
            world.run(7.0 + SETTLED)
            assert most_beyond(dispatchers.became.sent) <= BEYOND
            begun = world.now
            world.run(3.0)
            passed = sorted(dispatchers.became.sent)
            recovered = (len(passed) - bisect_right(passed, begun)) / 3.0
            assert recovered >= 0.85 * RATE


@pytest.mark.parametrize("seconds", [0.9, 1.1, 3.0])
def test_who_stood_still_for_so_long_that_others_may_own_what_was_its_own_listens_first(
    seconds: float,
) -> None:
    times = Peers()
    with World(0) as world, Dispatchers(world) as dispatchers:
        one, _ = dispatchers.start("d0"), dispatchers.start("d1")
        world.run(3.0)
        assert one.coordinator.peers.is_counted(one.name)
        one.process.freeze(seconds)
        world.run(seconds + times.listens / 2)
        assert one.coordinator.peers.is_counted(one.name) == (seconds < times.stood_still)
        world.run(times.listens + WAYS)
        assert one.coordinator.peers.is_counted(one.name)


@pytest.mark.parametrize("chunk", seeds(8), ids=str)
def test_a_broker_that_stands_still_for_a_moment_moves_no_limit(chunk: range) -> None:
    for seed in chunk:
        with World(seed) as world, Dispatchers(world) as dispatchers:
            both = [dispatchers.start("d0"), dispatchers.start("d1")]
            world.run(3.0)
            for one in both:
                one.admit(WIDE, 20)
            dispatchers.broker.stall(1.4)
            for _ in range(100):
                world.run(0.05)
                assert all(
                    one.coordinator.peers.is_counted(other.name) for one in both for other in both
                )


def stands_still(world: World, dispatchers: Dispatchers) -> None:
    dispatchers.broker.stall(world.between(1.0, 4.0))


def dies(world: World, dispatchers: Dispatchers) -> None:
    dispatchers.broker.restart(world.between(0.3, 6.0))


TROUBLES = {"stands still": stands_still, "is killed": dies}


def undecided_under(
    world: World,
    dispatchers: Dispatchers,
    resolved: Resolved,
    trouble: Callable[[World, Dispatchers], None],
) -> int:
    """Have two dispatchers go on while the broker is in trouble; tells how many tasks came."""
    dispatchers.start("d0")
    dispatchers.start("d1")
    world.run(3.0)
    came = 0
    for _ in range(3):
        for one in dispatchers.alive:
            one.admit(resolved, 20)
        world.run(world.between(0.0, 0.1))
        trouble(world, dispatchers)
        for _ in range(10):
            for one in dispatchers.alive:  # what they had fetched before
                one.admit(resolved, 5)
            world.run(0.1)
        world.run(10.0)
        came += 2 * (20 + 10 * 5)
    return came


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
@pytest.mark.parametrize("resolved", EACH.values(), ids=EACH.keys())
@pytest.mark.parametrize("chunk", seeds(12), ids=str)
def test_what_nobody_decided_waits_and_then_passes(
    chunk: range, resolved: Resolved, trouble: Callable[[World, Dispatchers], None]
) -> None:
    for seed in chunk:
        with World(seed) as world, Dispatchers(world) as dispatchers:
            came = undecided_under(world, dispatchers, resolved, trouble)
            became = dispatchers.became
            assert not became.ended
            assert {task.waited_for for task in became.waiting} <= {Waiting.UNDECIDED}
            assert len(became.sent) + len(became.waiting) == came
            waiting, became.waiting = became.waiting, []
            dispatchers.alive[0].again(waiting)
            world.run(1.0)
            assert (became.ended, became.waiting, became.lanes) == ([], [], {LANE})


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
def test_of_a_broker_that_is_in_trouble_some_tasks_find_nobody_who_decides(
    trouble: Callable[[World, Dispatchers], None],
) -> None:
    with World(0) as world, Dispatchers(world) as dispatchers:
        undecided_under(world, dispatchers, EACH["a bulkhead"], trouble)
        assert dispatchers.became.held, "everything was decided: the broker was in trouble in vain"


FIVE = Resolved.from_policies(policy("bulkhead", {"max_in_flight": 5}))


@pytest.mark.parametrize("draining", [False, True])
def test_what_waits_in_an_agents_own_queue_takes_room_until_it_is_seen_to_be_empty(
    *,
    draining: bool,
) -> None:
    with World(0) as world, Dispatchers(world) as dispatchers:
        one, queue = dispatchers.start("d0"), agent_queue("a").name
        for lane in lane_queues(LANE):
            dispatchers.broker.queues[lane.name] = QueueView(ready=0, consumers=1)
        world.run(3.0)
        one.assignment.registered("a", "1", frozenset({LANE}))
        if draining:
            one.assignment.draining("a", "1")
        one.count_rooms()
        dispatchers.broker.queues[queue] = QueueView(ready=5, consumers=1)
        for _ in range(10):
            one.admit(FIVE, 5)
            world.run(5.0)
            assert len(dispatchers.became.sent) == 5
        dispatchers.broker.queues[queue] = QueueView(ready=0, consumers=1)
        world.run(2.5 + Reports().heard)
        one.admit(FIVE, 5)
        world.run(1.0)
        assert len(dispatchers.became.sent) == 10


@pytest.mark.parametrize("others", [0, 1])
def test_who_begins_when_all_others_have_died_knows_what_waits_in_queues(others: int) -> None:
    with World(0) as world, Dispatchers(world) as dispatchers:
        for lane in lane_queues(LANE):
            dispatchers.broker.queues[lane.name] = QueueView(ready=5, consumers=1)
        first = [dispatchers.start(f"d{number}") for number in range(1 + others)]
        world.run(3.0)
        first[0].admit(FIVE, 5)
        world.run(2.0)
        assert len(dispatchers.became.sent) == 5
        for one in first:
            dispatchers.broker.kill(one.process)
        world.run(0.5)
        two = dispatchers.start("d9")
        world.run(3.0)
        two.count_rooms()
        two.admit(FIVE, 5)
        world.run(2.0)
        assert len(dispatchers.became.sent) == 5
        for lane in lane_queues(LANE):
            dispatchers.broker.queues[lane.name] = QueueView(ready=0, consumers=1)
        world.run(2.5 + Reports().heard)
        two.admit(FIVE, 5)
        world.run(1.0)
        assert len(dispatchers.became.sent) == 10
