"""A bulkhead is looked for only in lanes that are there, whatever lanes submitters make up."""

from itertools import pairwise

import pytest
from msgspec import structs

from limits_simulation import Simulation
from maniple.timings import Reports
from maniple_dispatcher.limits.bulkhead_room import MAX_LANES
from maniple_dispatcher.limits.concurrency import Bulkheads
from maniple_dispatcher.limits.lease_owner import limit_asked
from maniple_dispatcher.limits.limit import ConcurrencyLimit
from maniple_dispatcher.limits.messages import Ask
from maniple_dispatcher.limits.outstanding import OutstandingTasks

KEY, LANE = "bulkhead/x", "text.stats"
MADE_UP = tuple(f"made-up-{number}" for number in range(MAX_LANES + 1000))
MOST = 10_000
SOON = 0.3


def limit(lane: str = LANE) -> ConcurrencyLimit:
    return ConcurrencyLimit(KEY, most=MOST, lane=lane)


def lanes(dispatchers: Simulation, name: str) -> set[str]:
    """Return where one looks for tasks, as it would write it down."""
    written = dict(bulkheads(dispatchers, name).lately_in_use(lambda _: True))
    return set(written[KEY][1]) if KEY in written else set()


def bulkheads(dispatchers: Simulation, name: str) -> Bulkheads:
    return dispatchers.alive[name].owned.bulkheads


def comes(dispatchers: Simulation, name: str, *to: str) -> None:
    """Grant a dispatcher room for tasks to these lanes, which are then under way."""
    for lane in to:
        dispatchers.submit(name, limit(lane))
    dispatchers.run(SOON)


def no_lane(dispatchers: Simulation, name: str, *which: str) -> None:
    """Report from a dispatcher that these lanes do not exist."""
    for lane in which:
        dispatchers.alive[name].found_no_lane(limit(lane), dispatchers.now)
    dispatchers.run(SOON)


@pytest.fixture(params=["its owner", "another"])
def one(request: pytest.FixtureRequest) -> tuple[Simulation, str, str]:
    """Two dispatchers, and the name of one that has tasks and of the other."""
    dispatchers = Simulation(2)
    owner = dispatchers.owner(KEY)
    (other,) = dispatchers.alive.keys() - {owner}
    return (
        (dispatchers, owner, other) if request.param == "its owner" else (dispatchers, other, owner)
    )


def test_lanes_that_are_not_there_are_known_for_a_moment_only(
    one: tuple[Simulation, str, str],
) -> None:
    dispatchers, name, _ = one
    comes(dispatchers, name, *MADE_UP, LANE)
    assert MADE_UP[-1] in lanes(dispatchers, dispatchers.owner(KEY))
    dispatchers.alive[name].arrived(KEY, LANE)
    no_lane(dispatchers, name, *MADE_UP)
    comes(dispatchers, name, LANE)
    assert [lanes(dispatchers, each) for each in dispatchers.alive] == [{LANE}, {LANE}]
    dispatchers.kill(dispatchers.owner(KEY))
    dispatchers.run(3.0)
    assert [
        d.lanes for d in bulkheads(dispatchers, dispatchers.owner(KEY)).doubtful(dispatchers.now)
    ] == [{LANE}]


def test_a_lane_where_another_task_may_be_stays(one: tuple[Simulation, str, str]) -> None:
    dispatchers, name, other = one
    owner = dispatchers.owner(KEY)
    comes(dispatchers, name, "new", "new", "made-up")
    no_lane(dispatchers, name, "new", "made-up")
    assert lanes(dispatchers, owner) == {"new"}  # the other is on its way, and may find it made
    comes(dispatchers, other, "new")
    no_lane(dispatchers, name, "new")
    assert lanes(dispatchers, owner) == {"new"}  # another dispatcher has one on its way
    no_lane(dispatchers, other, "new")
    assert lanes(dispatchers, owner) == set()


def test_a_lane_that_took_one_stays_though_it_was_not_there_a_moment_ago(
    one: tuple[Simulation, str, str],
) -> None:
    dispatchers, name, _ = one
    comes(dispatchers, name, "new", "new")
    dispatchers.alive[name].arrived(KEY, "new")
    no_lane(dispatchers, name, "new")
    assert lanes(dispatchers, dispatchers.owner(KEY)) == {"new"}


def test_tasks_that_got_no_room_or_gave_it_back_are_on_no_way(
    one: tuple[Simulation, str, str],
) -> None:
    dispatchers, name, _ = one
    full = ConcurrencyLimit(KEY, most=1, lane="made-up")
    dispatchers.submit(name, full, 3)
    dispatchers.run(SOON)
    assert (dispatchers.passed.total(), len(dispatchers.refused)) == (1, 2)
    no_lane(dispatchers, name, "made-up")
    assert lanes(dispatchers, dispatchers.owner(KEY)) == set()
    comes(dispatchers, name, "made-up", "made-up")
    dispatchers.alive[name].return_permit(limit("made-up"), dispatchers.now)
    no_lane(dispatchers, name, "made-up")
    assert lanes(dispatchers, dispatchers.owner(KEY)) == set()


def test_a_lane_that_is_not_told_of_in_time_is_told_of_later() -> None:
    dispatchers = Simulation(3)
    owner = dispatchers.owner(KEY)
    name = min(dispatchers.alive.keys() - {owner})
    comes(dispatchers, name, "made-up", LANE)
    dispatchers.kill(owner)
    no_lane(dispatchers, name, "made-up")
    dispatchers.run(4.0)
    comes(dispatchers, name, LANE)
    assert lanes(dispatchers, dispatchers.owner(KEY)) == {LANE}


def granted(bulkheads: Bulkheads, lane: str, number: int, now: float = 0.0) -> None:
    """Grant room to tasks that go to a lane."""
    bulkheads.take_slots(KEY, MOST, number, now)
    bulkheads.sends(KEY, (lane,), "dispatcher", now)


def test_lanes_of_tasks_that_are_refused_are_not_known(one: tuple[Simulation, str, str]) -> None:
    dispatchers, name, _ = one
    full = 5
    for number in range(full):
        dispatchers.submit(name, ConcurrencyLimit(KEY, most=full, lane=f"lane-{number}"))
    dispatchers.run(SOON)
    places = {f"lane-{number}" for number in range(full)}
    for made_up in MADE_UP:
        dispatchers.submit(name, ConcurrencyLimit(KEY, most=full, lane=made_up))
    dispatchers.run(SOON)
    assert len(dispatchers.refused) == len(MADE_UP)
    bulkheads(dispatchers, dispatchers.owner(KEY)).free_slots(
        KEY, 1
    )  # as an agent tells that one has ended
    dispatchers.submit(name, ConcurrencyLimit(KEY, most=full, lane="last"))
    for made_up in MADE_UP:
        dispatchers.submit(name, ConcurrencyLimit(KEY, most=full, lane=made_up))
    dispatchers.run(SOON)
    assert lanes(dispatchers, dispatchers.owner(KEY)) == places | {"last"}
    dispatchers.kill(dispatchers.owner(KEY))
    dispatchers.run(3.0)
    assert lanes(dispatchers, dispatchers.owner(KEY)) == places | {"last"}


def test_an_older_dispatcher_may_have_sent_what_it_is_granted_to_any_lane_that_it_names() -> None:
    ask = Ask(key=KEY, to="owner", number=1, want=3, most=MOST, lane="c", lanes=("a", "b"))
    older, newer = limit_asked(ask), limit_asked(structs.replace(ask, had=("b",)))
    assert isinstance(older, ConcurrencyLimit)
    assert isinstance(newer, ConcurrencyLimit)
    assert set(older.goes_to(1)) == {"a", "b", "c"}
    assert newer.goes_to(1) == ("c", "b")


def test_a_lane_is_left_with_the_last_that_does_not_go_there_if_one_missed_it() -> None:
    outstanding, way = OutstandingTasks(), (KEY, "made-up")
    outstanding.begins(way)
    outstanding.begins(way)
    assert not outstanding.ends(way, missed=True)  # the other may find it
    assert outstanding.ends(way)  # it was refused: nobody has found it
    outstanding.begins(way)
    assert not outstanding.ends(way)  # nor missed it


def test_a_lane_that_is_new_is_worth_writing_down_at_once_and_no_other() -> None:
    bulkheads = Bulkheads()
    granted(bulkheads, LANE, 4)
    versions = [bulkheads.version]
    for lane in (LANE, "new", "new"):
        bulkheads.free_slots(KEY, 1)
        granted(bulkheads, lane, 1)
        versions.append(bulkheads.version)
    assert [after - before for before, after in pairwise(versions)] == [0, 1, 0]


def test_a_lane_is_looked_at_once_what_went_there_must_have_been_told_of() -> None:
    bulkheads, lately = Bulkheads(), Reports().lately
    granted(bulkheads, LANE, 4)
    granted(bulkheads, "new", 3, 5.0)
    assert [d.lanes for d in bulkheads.doubtful(5.0)] == [{LANE}]
    assert [d.lanes for d in bulkheads.doubtful(5.0 + lately)] == [{LANE, "new"}]
