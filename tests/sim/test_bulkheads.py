"""Bulkheads while agents and dispatchers die, freeze and are late, in virtual time."""

from collections.abc import Callable
from functools import partial

import pytest

from maniple.timings import Reports
from maniple.topology import lane_queues
from maniple_policies import Resolved
from simulated_bulkheads import Queues
from simulated_dispatchers import LANE, policy
from virtual_time import World, seeds

MOST = 5
KEY = "bulkhead/it"
WAITING = Resolved.from_policies(policy("bulkhead", {"max_in_flight": MOST, "over": "wait"}))
LOADED = 40.0
SILENT = 1.2 * Reports().heard  # for longer than room is looked for that nobody tells of
DONE_WITHIN = 6 * Reports().heard


def kill_agent(world: World, queues: Queues) -> None:
    alive = [agent for agent in queues.agents if agent.alive]
    if len(alive) > 1:
        world.random.choice(alive).kill()


def freeze_agent(world: World, queues: Queues) -> None:
    alive = [agent for agent in queues.agents if agent.alive]
    if len(alive) > 1:
        world.random.choice(alive).freeze(world.between(0.5, 20.0))


def cut_agent(world: World, queues: Queues) -> None:
    alive = [agent for agent in queues.agents if agent.alive]
    world.random.choice(alive or queues.agents).cut(world.between(0.5, 5.0))


def kill_dispatcher(world: World, queues: Queues) -> None:
    if len(queues.workers) > 1:
        queues.kill(world.random.choice(queues.workers))
        world.after(
            world.between(0.5, 3.0), lambda: queues.start(f"d{len(queues.dispatchers.all)}")
        )


def freeze_dispatcher(world: World, queues: Queues) -> None:
    world.random.choice(queues.workers).process.freeze(world.between(0.2, 3.0))


def stall_broker(world: World, queues: Queues) -> None:
    queues.broker.stall(world.between(0.2, 3.0))


def lane_refuses(world: World, queues: Queues) -> None:
    name = lane_queues(LANE)[0].name
    queues.refusing.add(name)
    world.after(world.between(0.1, 3.0), lambda: queues.refusing.discard(name))


TROUBLES: tuple[Callable[[World, Queues], None], ...] = (
    kill_agent,
    freeze_agent,
    cut_agent,
    kill_dispatcher,
    freeze_dispatcher,
    stall_broker,
    lane_refuses,
)


def load(world: World, queues: Queues) -> None:
    """Have more tasks come than there is room for, now and then fewer."""

    def come() -> None:
        if world.now < 1003.0 + LOADED and len(queues.submitted) - len(queues.ended) < 30:
            for _ in range(world.random.randint(0, 3)):
                queues.submit(f"k{world.random.randint(0, 9)}" if queues.affinity else None)

    world.every(0.2, come)


@pytest.mark.parametrize("affinity", [False, True])
@pytest.mark.parametrize("chunk", seeds(8), ids=str)
def test_no_more_are_in_flight_than_there_is_room_and_all_room_comes_back(
    chunk: range, *, affinity: bool
) -> None:
    for seed in chunk:
        with World(seed) as world, Queues(world, WAITING, affinity=affinity, agents=3) as queues:
            for number in range(3):
                queues.start(f"d{number}")
            world.run(3.0)
            most = watch(world, queues)
            load(world, queues)
            for _ in range(6):
                trouble = world.random.choice(TROUBLES)
                world.after(world.between(0.0, LOADED), partial(trouble, world, queues))
            world.run(LOADED)
            assert max(most) >= MOST, "there was always room: nothing was tried"
            world.run(DONE_WITHIN)
            assert set(queues.submitted) == queues.ended
            for one in queues.workers:
                assert one.coordinator.owned.bulkheads.in_flight(KEY) == 0


@pytest.mark.parametrize("seed", range(4))
def test_what_waits_for_its_record_keeps_its_room_however_long_that_takes(seed: int) -> None:
    limit = policy("rate_limit", {"limit": 1000, "period": 1})
    resolved = Resolved.from_policies(*WAITING.policies.values(), limit)
    with World(seed) as world, Queues(world, resolved, affinity=False, agents=3) as queues:
        for number in range(2):
            queues.start(f"d{number}")
        world.run(3.0)
        most = watch(world, queues, 3 * SILENT + DONE_WITHIN)
        queues.records_are_silent = True
        for _ in range(3):
            for _ in range(MOST):
                queues.submit(None)
            world.run(SILENT)
        queues.records_are_silent = False
        world.run(DONE_WITHIN)
        assert max(most) == MOST
        assert set(queues.submitted) == queues.ended


def watch(world: World, queues: Queues, seconds: float = LOADED) -> list[int]:
    """Note all the time how many are in flight that an owner did not let through as it died.

    They are no more than there is room, but for what was given back twice.
    """
    seen: list[int] = []
    end = world.now + seconds

    def note() -> None:
        seen.append(len(queues.in_flight() - queues.excused))
        assert seen[-1] <= MOST + len(queues.twice)
        if world.now < end:
            world.after(0.01, note)

    note()
    return seen
