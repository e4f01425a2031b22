"""`maniple_dispatcher.limits.concurrency`: tasks in flight, measured."""

import pytest

from limits_simulation import Simulation
from maniple.timings import Reports
from maniple_dispatcher.limits.concurrency import Bulkheads, Doubt, Held
from maniple_dispatcher.limits.limit import ConcurrencyLimit, Limit

LATELY, HEARD = Reports().lately, Reports().heard
KEY, LANE, ME = "bulkhead/x", "text.stats", "dispatcher"
ONE, TWO = ("agent-1", "1"), ("agent-2", "1")
LOOK = 0.5


def granted(bulkheads: Bulkheads, want: int, now: float, most: int = 10) -> int:
    number = bulkheads.take_slots(KEY, most, want, now)
    bulkheads.sends(KEY, (LANE,), ME, now)
    return number


def looked(
    bulkheads: Bulkheads, begin: float, seconds: float, ready: int = 0, *, blank: bool = False
) -> float:
    """Look into the queues for so long; returns when that was over."""
    for number in range(int(seconds / LOOK) + 1):
        now = begin + number * LOOK
        bulkheads.forget_stale(lambda _: True, now)
        for doubt in tuple(bulkheads.doubtful(now)):
            bulkheads.looked(doubt.key, ready, now, blank=blank)
    return now


def test_no_more_than_the_most_are_granted() -> None:
    bulkheads = Bulkheads()
    assert [granted(bulkheads, want, 0.0) for want in (4, 4, 4, 4)] == [4, 4, 2, 0]


def test_room_is_there_again_when_agents_say_that_tasks_have_left() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)
    bulkheads.record_load(ONE, [Held(KEY, here=7, ended=3)], 0.5)
    assert granted(bulkheads, 10, 0.5) == 3


def test_what_agents_have_counts_also_for_who_did_not_grant_it() -> None:
    bulkheads = Bulkheads()
    bulkheads.record_load(ONE, [Held(KEY, here=6, ended=0)], 0.0)
    bulkheads.record_load(TWO, [Held(KEY, here=2, ended=0)], 0.0)
    assert [granted(bulkheads, 1, 0.1) for _ in range(4)] == [1, 1, 0, 0]


def test_what_waits_in_a_queue_is_in_flight() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)
    assert granted(bulkheads, 10, 60.0) == 0


def test_what_an_agent_had_that_is_silent_is_in_flight_until_it_has_failed() -> None:
    bulkheads = Bulkheads()
    bulkheads.record_load(ONE, [Held(KEY, here=10, ended=0)], 0.0)
    bulkheads.forget_stale(lambda _: True, 12.0)
    assert granted(bulkheads, 10, 12.0) == 0
    bulkheads.gone("agent-1", "1")
    assert granted(bulkheads, 10, 12.0) == 10


def test_what_an_agent_had_that_nobody_tells_of_is_in_flight_no_longer_than_it_can_have_it() -> (
    None
):
    bulkheads = Bulkheads()
    bulkheads.record_load(ONE, [Held(KEY, here=10, ended=0)], 0.0)
    bulkheads.forget_stale(lambda _: True, HEARD + 0.1)
    assert granted(bulkheads, 10, HEARD + 0.1) == 10


def test_while_nobody_can_be_heard_nobody_is_silent() -> None:
    bulkheads = Bulkheads()
    bulkheads.record_load(ONE, [Held(KEY, here=10, ended=0)], 0.0)
    for now in range(0, 100, 5):
        bulkheads.forget_stale(lambda _: True, float(now), hears=False)
    bulkheads.forget_stale(lambda _: True, 100.0)
    assert granted(bulkheads, 10, 100.0) == 0


@pytest.mark.parametrize(
    ("agent", "incarnation", "itself", "room"),
    [
        ("agent-1", "5", True, 10),
        ("agent-1", "5", False, 0),
        ("agent-1", "6", False, 10),
        ("agent-1", "4", True, 0),
        ("agent-1", "", True, 10),
        ("agent-2", "5", True, 0),
    ],
)
def test_only_the_lives_of_an_agent_that_are_over_have_nothing_any_more(
    agent: str, incarnation: str, *, itself: bool, room: int
) -> None:
    bulkheads = Bulkheads()
    bulkheads.record_load(("agent-1", "5"), [Held(KEY, here=10, ended=0)], 0.0)
    bulkheads.gone(agent, incarnation, itself=itself)
    assert granted(bulkheads, 10, 0.1) == room


def test_nothing_leaks_when_an_agent_is_lost_with_what_it_had_to_tell() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)
    bulkheads.record_load(ONE, [Held(KEY, here=10, ended=0)], 0.5)
    bulkheads.gone(*ONE)  # it was killed, and its tasks have ended elsewhere without a word
    assert list(bulkheads.doubtful(5.0)) == [Doubt(KEY, frozenset({LANE}), 10)]
    now = looked(bulkheads, 5.0, HEARD)
    assert granted(bulkheads, 10, now) == 10


def test_what_an_agent_has_untold_is_no_less_in_flight_for_empty_queues() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)  # one that stands still has them, since before it could tell
    now = looked(bulkheads, 5.0, HEARD - 2 * LOOK)
    assert granted(bulkheads, 10, now) == 0


def test_only_what_was_nowhere_at_any_look_has_ended() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)
    now = looked(bulkheads, 5.0, 10.0, ready=3)
    now = looked(bulkheads, now, HEARD)
    assert granted(bulkheads, 10, now) == 7


def test_what_may_be_in_a_queue_that_looks_blank_is_in_flight_for_long() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)
    now = looked(bulkheads, 5.0, 60.0, blank=True)
    assert granted(bulkheads, 10, now) == 0
    now = looked(bulkheads, now, 10 * HEARD, blank=True)
    assert granted(bulkheads, 10, now) == 10


def test_what_a_dispatcher_has_on_its_way_is_in_flight() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)
    for begin in range(0, 60, 10):
        bulkheads.record_unqueued("d1", {KEY: 10}, float(begin))
        looked(bulkheads, float(begin), 9.5)
    assert granted(bulkheads, 10, 60.0) == 0


def test_what_was_granted_just_now_is_not_doubted() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 10, 0.0)
    assert list(bulkheads.doubtful(LATELY / 2)) == []


def test_room_that_is_lost_comes_back_while_tasks_come_and_go() -> None:
    bulkheads, now, here = Bulkheads(), 0.0, 0
    granted(bulkheads, 4, now)  # which nobody will tell of
    while now < 3 * HEARD:
        now += 2.0
        here += granted(bulkheads, 1, now)
        bulkheads.record_load(ONE, [Held(KEY, here, ended=0)], now)
        looked(bulkheads, now, LATELY + LOOK)
        if here == 6:
            here -= 1
            bulkheads.record_load(ONE, [Held(KEY, here, ended=1)], now)
    assert granted(bulkheads, 10, now) == 10 - here


def test_a_bulkhead_at_rest_is_forgotten() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, 2, 0.0)
    bulkheads.record_load(ONE, [Held(KEY, here=0, ended=2)], 0.5)
    bulkheads.forget_stale(lambda _: True, 10.0)
    assert bulkheads.in_flight(KEY) == 0
    assert list(bulkheads.doubtful(10.0)) == []


def passed(dispatchers: Simulation, name: str, limit: Limit, tasks: int) -> int:
    before = dispatchers.passed.total()
    dispatchers.submit(name, limit, tasks)
    dispatchers.run(0.5)
    return dispatchers.passed.total() - before


def bulkheads_of(dispatchers: Simulation, name: str) -> Bulkheads:
    return dispatchers.alive[name].owned.bulkheads


def test_who_owns_a_bulkhead_next_knows_what_waits_in_queues() -> None:
    dispatchers, limit = Simulation(3), ConcurrencyLimit(KEY, most=10, lane=LANE)
    owner = dispatchers.owner(KEY)
    other, third = sorted(dispatchers.alive.keys() - {owner})
    assert passed(dispatchers, owner, limit, 4) + passed(dispatchers, other, limit, 3) == 7
    dispatchers.kill(owner)
    dispatchers.run(3.0)
    assert sum(passed(dispatchers, name, limit, 10) for name in (other, third)) == 3
    bulkheads = dispatchers.alive[dispatchers.owner(KEY)].owned.bulkheads
    dispatchers.run(LATELY)
    assert [doubt.lanes for doubt in bulkheads.doubtful(dispatchers.now)] == [frozenset({LANE})]


def test_a_dispatcher_that_starts_and_owns_it_knows_that_too() -> None:
    dispatchers = Simulation(2)
    limits = [ConcurrencyLimit(f"{KEY}-{n}", most=10, lane=LANE) for n in range(20)]
    for limit in limits:
        dispatchers.submit("dispatcher-0", limit, 8)
    dispatchers.run(0.5)
    dispatchers.start("newcomer")
    dispatchers.run(3.0)
    moved = [limit for limit in limits if dispatchers.owner(limit.key) == "newcomer"]
    assert moved
    assert all(passed(dispatchers, "newcomer", limit, 8) == 2 for limit in moved)


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.2, 0.3])
def test_others_hear_when_what_was_granted_has_got_lost(moment: float) -> None:
    dispatchers, limit = Simulation(2), ConcurrencyLimit(KEY, most=10, lane=LANE)
    owner = dispatchers.owner(KEY)
    (other,) = dispatchers.alive.keys() - {owner}
    assert passed(dispatchers, owner, limit, 10) == 10
    dispatchers.run(LATELY + moment)
    while bulkheads_of(dispatchers, owner).in_flight(KEY):
        bulkheads_of(dispatchers, owner).looked(KEY, 0, dispatchers.now)
        dispatchers.run(LOOK)
        assert dispatchers.now < 2 * HEARD
    dispatchers.run(1.0)
    dispatchers.kill(owner)
    dispatchers.run(3.0)
    assert passed(dispatchers, other, limit, 10) == 10


def test_who_begins_anew_alone_knows_what_it_has_granted() -> None:
    dispatchers, limit = Simulation(1), ConcurrencyLimit(KEY, most=10, lane=LANE)
    (name,) = dispatchers.alive
    assert passed(dispatchers, name, limit, 10) == 10
    dispatchers.freeze(name, 3.0)
    dispatchers.run(6.0)
    assert dispatchers.owner(KEY) == name
    assert passed(dispatchers, name, limit, 10) == 0


def test_an_owner_knows_all_lanes_that_tasks_of_others_go_to() -> None:
    dispatchers = Simulation(2)
    owner = dispatchers.owner(KEY)
    (other,) = dispatchers.alive.keys() - {owner}
    for lane in ("a", "b", "c"):  # they ask together
        dispatchers.submit(other, ConcurrencyLimit(KEY, most=10, lane=lane))
    dispatchers.run(0.5 + LATELY)
    (doubt,) = bulkheads_of(dispatchers, owner).doubtful(dispatchers.now)
    assert doubt == Doubt(KEY, frozenset("abc"), 3)


def test_room_that_another_gives_back_is_free_and_changes_nothing_of_what_it_asks() -> None:
    dispatchers, limit = Simulation(2), ConcurrencyLimit(KEY, most=10, lane=LANE)
    owner = dispatchers.owner(KEY)
    (other,) = dispatchers.alive.keys() - {owner}
    assert passed(dispatchers, other, limit, 10) == 10
    for _ in range(4):
        dispatchers.alive[other].return_permit(ConcurrencyLimit(KEY, most=1), dispatchers.now)
    assert passed(dispatchers, other, limit, 10) == 4


def test_what_a_dispatcher_has_on_its_way_is_told_to_the_owner() -> None:
    dispatchers, limit = Simulation(2), ConcurrencyLimit(KEY, most=10, lane=LANE)
    owner = dispatchers.owner(KEY)
    (other,) = dispatchers.alive.keys() - {owner}
    assert passed(dispatchers, other, limit, 10) == 10
    dispatchers.alive[other].unqueued.counts[KEY] = 7
    dispatchers.run(1.0 + LATELY)
    (doubt,) = bulkheads_of(dispatchers, owner).doubtful(dispatchers.now)
    assert doubt.number == 3
    del dispatchers.alive[other].unqueued.counts[KEY]
    dispatchers.run(1.0)
    (doubt,) = bulkheads_of(dispatchers, owner).doubtful(dispatchers.now)
    assert doubt.number == 10


@pytest.mark.parametrize(("alone", "told", "room"), [(True, 0, 3), (False, 0, 10), (True, 4, 6)])
def test_what_was_written_down_counts_where_nobody_is_left_to_tell(
    *, alone: bool, told: int, room: int
) -> None:
    bulkheads = Bulkheads()
    bulkheads.remember({KEY: (7, (LANE,))}, 0.0, 0.0)
    if told:
        bulkheads.follow_owner(KEY, (told, (LANE,)), 0.5, ours=False)
    bulkheads.recall(1.0, alone=alone)
    assert granted(bulkheads, 10, 1.0) == room


def test_what_is_to_be_written_down_is_no_less_than_was_granted_and_seldom_changes() -> None:
    bulkheads, versions = Bulkheads(), set()
    for number in range(1000):
        now = number / 100
        ended = granted(bulkheads, 50 + number % 7, now, most=100)
        (noted,) = bulkheads.lately_in_use(lambda _: True)
        assert noted[0] == KEY
        assert noted[1][0] >= bulkheads.in_flight(KEY)
        versions.add(bulkheads.version)
        bulkheads.record_load(ONE, [Held(KEY, here=0, ended=ended)], now)
        bulkheads.forget_stale(lambda _: True, now)
    assert len(versions) < 5
    bulkheads.forget_stale(lambda _: True, 30.0)
    assert list(bulkheads.lately_in_use(lambda _: True)) == []
