"""What a dispatcher had when it died comes to another, while its limit is used up; virtual time."""

import pytest

from maniple.messages import Envelope
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_policies import Resolved
from simulated_dispatchers import FAR, HELD, LANE, NOW, Dispatcher, Dispatchers, policy
from virtual_time import World, seeds

LIMIT, HAD = 400, 150
POLICY = policy("rate_limit", {"limit": LIMIT, "period": 3600})
LIMITED = Resolved.from_policies(POLICY)
KEY = "rate_limit/it"


def deliver(one: Dispatcher, tasks: int, before: Redelivery) -> None:
    """Deliver tasks from the broker."""

    def come() -> None:
        for number in range(tasks):
            task = Envelope(
                id=str(number), capability=LANE, lane=LANE, submitted_at=NOW, deadline=FAR
            )
            one.undecided += 1
            one.pipeline.admit(task, LIMITED, HELD, before)

    one.world.after(0.0, come, one.process)


@pytest.mark.parametrize("chunk", seeds(20), ids=str)
def test_no_task_that_was_admitted_is_refused_and_none_is_charged_twice(chunk: range) -> None:
    for seed in chunk:
        with World(seed) as world, Dispatchers(world) as dispatchers:
            for number in range(3):
                dispatchers.start(f"d{number}")
            world.run(3.0)
            dies = next(one for one in dispatchers.alive if one is not dispatchers.owner(KEY))
            deliver(dies, HAD, Redelivery.UNKNOWN)
            world.run(2.0)
            first = len(dispatchers.became.sent)
            assert (first, dispatchers.became.ended) == (HAD, [])  # all had a token
            dispatchers.broker.kill(dies.process)
            heir = next(one for one in dispatchers.alive if one is not dispatchers.owner(KEY))
            deliver(heir, HAD, Redelivery.DELIVERED)
            world.run(5.0)
            assert (len(dispatchers.became.sent), dispatchers.became.ended) == (2 * HAD, [])
            deliver(heir, LIMIT, Redelivery.UNKNOWN)
            world.run(5.0)
            anew = len(dispatchers.became.sent) - 2 * HAD
            assert LIMIT - HAD <= anew <= LIMIT - HAD + 2  # and those that grew again meanwhile
            deliver(heir, HAD, Redelivery.DELIVERED)
            refused = len(dispatchers.became.ended)
            world.run(2.0)
            assert len(dispatchers.became.ended) == refused  # though the limit is used up
