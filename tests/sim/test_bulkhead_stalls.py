"""What has been granted of a bulkhead keeps its room while the broker stands still."""

import pytest

from maniple.service.policies import Resolved
from maniple.topology import lane_queues
from maniple.transport import QueueView
from simulated_dispatchers import LANE, Dispatchers, policy
from virtual_time import World

MOST = 5
FIVE = Resolved(bulkhead=policy("bulkhead", {"max_in_flight": MOST}))
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
