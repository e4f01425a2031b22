"""Bulkheads that refuse, after all dispatchers died at once, in virtual time."""

from functools import partial

import pytest

from maniple.timings import Reports
from maniple_policies import Resolved
from simulated_bulkheads import Queues
from simulated_dispatchers import policy
from virtual_time import World, seeds

MOST = 5
KEY = "bulkhead/it"
REFUSING = Resolved.from_policies(policy("bulkhead", {"max_in_flight": MOST, "over": "reject"}))
WRITTEN = 1.5
READY = 3.0
IDLE = 2.0  # seconds in which agents end what they have, and tell nobody


def crash(world: World, queues: Queues, dispatchers: int) -> None:
    """Kill all dispatchers while a bulkhead is full; start others when it is empty."""
    for number in range(dispatchers):
        queues.start(f"d{number}")
    world.run(READY)
    for _ in range(MOST * 4):
        world.after(world.between(0.0, WRITTEN), partial(queues.submit, None))
    world.run(WRITTEN)
    for one in tuple(queues.workers):
        queues.kill(one)
    world.run(IDLE)
    for number in range(dispatchers):
        queues.start(f"d{number}.2")
    world.run(READY)


@pytest.mark.parametrize("dispatchers", [1, 2, 3])
@pytest.mark.parametrize("chunk", seeds(8), ids=str)
def test_nothing_is_refused_for_room_that_is_only_remembered(
    chunk: range, dispatchers: int
) -> None:
    for seed in chunk:
        with World(seed) as world, Queues(world, REFUSING, affinity=False, agents=2) as queues:
            crash(world, queues, dispatchers)
            remembered = max(w.coordinator.owned.bulkheads.in_flight(KEY) for w in queues.workers)
            refused = set(queues.refused)
            in_flight: list[int] = []
            world.every(0.02, lambda: in_flight.append(len(queues.in_flight())))  # noqa: B023
            for number in range(10):
                world.after(number * 0.5, partial(queues.submit, None))
            world.run(10.0)
            assert queues.refused == refused
            world.run(3 * Reports().heard)
            assert max(in_flight) <= MOST
            assert queues.ended | queues.refused == set(queues.submitted)
            assert remembered, "there was nothing to remember: nothing was tried"
