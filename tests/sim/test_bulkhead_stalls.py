"""What is granted of a bulkhead keeps its room while the broker, or its owner, stands still."""

import pytest

from maniple.amqp import QueueView
from maniple.topology import lane_queues
from maniple_policies import Resolved
from simulated_dispatchers import LANE, Dispatchers, policy
from virtual_time import World

MOST = 5
KEY = "bulkhead/it"
FIVE = Resolved.from_policies(policy("bulkhead", {"max_in_flight": MOST}))
READY = 3.0


@pytest.mark.parametrize("dispatchers", [1, 2])
@pytest.mark.parametrize("seconds", [2.5, 4.0])
def test_what_waits_in_a_lane_keeps_its_room_while_the_broker_stands_still(
    seconds: float, dispatchers: int
) -> None:
    with World(0) as world, Dispatchers(world) as fleet:
        for lane in lane_queues(LANE):
            fleet.broker.queues[lane.name] = QueueView(ready=MOST, consumers=1)
        all_of_them = [fleet.start(f"d{number}") for number in range(dispatchers)]
        world.run(READY)
        all_of_them[0].admit(FIVE, MOST)
        world.run(1.0)
        assert len(fleet.became.sent) == MOST
        fleet.broker.stall(seconds)
        world.run(seconds + READY)
        for one in all_of_them:
            one.admit(FIVE, MOST)
        world.run(2.0)
        assert len(fleet.became.sent) == MOST


@pytest.mark.parametrize("seconds", [1.1, 1.5, 3.0])
def test_what_comes_first_when_an_owner_wakes_is_not_let_through_beside_the_next_owner(
    seconds: float,
) -> None:
    """It is asked before it has looked at its clock, and tells nobody what was its own before."""
    with World(0) as world, Dispatchers(world) as fleet:
        for lane in lane_queues(LANE):
            fleet.broker.queues[lane.name] = QueueView(ready=MOST, consumers=1)
        for number in range(2):
            fleet.start(f"d{number}")
        world.run(READY)
        owner = fleet.owner(KEY)
        (other,) = (one for one in fleet.all if one is not owner)
        owner.process.freeze(seconds)
        owner.admit(FIVE, MOST)
        world.run(seconds + 0.5)
        other.admit(FIVE, MOST)
        world.run(READY)
        assert len(fleet.became.sent) == MOST
