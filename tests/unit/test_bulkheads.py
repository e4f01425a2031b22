"""`maniple_dispatcher.domain.bulkheads`: tasks in flight, measured."""

import pytest

from fleet_simulation import Simulation
from maniple.timings import Reports
from maniple_dispatcher.domain.bulkheads import Bulkheads, Held
from maniple_dispatcher.domain.permits import Limit

LATELY = Reports().lately
KEY, LANE = "bulkhead/x", "text.stats"


def granted(bulkheads: Bulkheads, want: int, now: float, most: int = 10) -> int:
    return bulkheads.take(KEY, LANE, most, want, now)


def test_no_more_than_the_most_are_granted() -> None:
    bulkheads = Bulkheads()
    assert [granted(bulkheads, want, 0.0) for want in (4, 4, 4, 4)] == [4, 4, 2, 0]


def test_room_is_there_again_when_agents_say_that_tasks_have_left() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)
    bulkheads.hear("agent-1", [Held(KEY, here=7, ended=3)], 0.5)
    assert granted(bulkheads, 10, 0.5) == 3


def test_what_agents_have_counts_also_for_who_did_not_grant_it() -> None:
    bulkheads = Bulkheads()
    bulkheads.hear("agent-1", [Held(KEY, here=6, ended=0)], 0.0)
    bulkheads.hear("agent-2", [Held(KEY, here=2, ended=0)], 0.0)
    assert granted(bulkheads, 10, 0.1) == 2


def test_what_waits_in_a_queue_is_in_flight() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)
    assert granted(bulkheads, 10, 60.0) == 0


def test_nothing_leaks_when_an_agent_is_lost_with_what_it_had_to_tell() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)
    bulkheads.hear("agent-1", [Held(KEY, here=10, ended=0)], 0.5)
    later = 5.0  # it was killed, and its tasks have ended elsewhere without a word
    bulkheads.look(lambda _: True, later)
    assert list(bulkheads.doubtful(later)) == [(KEY, frozenset({LANE}))]
    bulkheads.queues_empty(KEY, later)
    assert granted(bulkheads, 10, later) == 10


def test_what_was_granted_just_now_is_not_taken_for_lost() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)
    assert list(bulkheads.doubtful(LATELY / 2)) == []
    bulkheads.queues_empty(KEY, LATELY / 2)
    assert granted(bulkheads, 10, LATELY / 2) == 0


def test_a_bulkhead_at_rest_is_forgotten() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 2, 0.0)
    bulkheads.hear("agent-1", [Held(KEY, here=0, ended=2)], 0.5)
    bulkheads.look(lambda _: True, 10.0)
    assert bulkheads.in_flight(KEY, 10.0) == 0
    assert list(bulkheads.doubtful(10.0)) == []


def passed(fleet: Simulation, name: str, limit: Limit, tasks: int) -> int:
    before = fleet.passed.total()
    fleet.submit(name, limit, tasks)
    fleet.run(0.5)
    return fleet.passed.total() - before


def test_who_owns_a_bulkhead_next_knows_what_waits_in_queues() -> None:
    fleet, limit = Simulation(3), Limit(KEY, most=10, lane=LANE)
    owner = fleet.owner(KEY)
    other, third = sorted(fleet.alive.keys() - {owner})
    assert passed(fleet, owner, limit, 4) + passed(fleet, other, limit, 3) == 7
    fleet.kill(owner)
    fleet.run(3.0)
    assert sum(passed(fleet, name, limit, 10) for name in (other, third)) == 3
    bulkheads = fleet.alive[fleet.owner(KEY)].owned.bulkheads
    fleet.run(LATELY)
    assert list(bulkheads.doubtful(fleet.now)) == [(KEY, frozenset({LANE}))]


def test_a_dispatcher_that_starts_and_owns_it_knows_that_too() -> None:
    fleet = Simulation(2)
    limits = [Limit(f"{KEY}-{n}", most=10, lane=LANE) for n in range(20)]
    for limit in limits:
        fleet.submit("dispatcher-0", limit, 8)
    fleet.run(0.5)
    fleet.start("newcomer")
    fleet.run(3.0)
    moved = [limit for limit in limits if fleet.owner(limit.key) == "newcomer"]
    assert moved
    assert all(passed(fleet, "newcomer", limit, 8) == 2 for limit in moved)


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.2, 0.3])
def test_others_hear_when_what_was_granted_has_got_lost(moment: float) -> None:
    fleet, limit = Simulation(2), Limit(KEY, most=10, lane=LANE)
    owner = fleet.owner(KEY)
    (other,) = fleet.alive.keys() - {owner}
    assert passed(fleet, owner, limit, 10) == 10
    fleet.run(LATELY + moment)
    fleet.alive[owner].owned.bulkheads.queues_empty(KEY, fleet.now)
    fleet.run(1.0)
    fleet.kill(owner)
    fleet.run(3.0)
    assert passed(fleet, other, limit, 10) == 10
