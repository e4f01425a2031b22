"""Room that is only remembered takes room, but a bulkhead that is full by it is not known to be."""

import msgspec
import pytest

from limits_simulation import Simulation
from maniple.timings import Reports
from maniple_dispatcher.limits.concurrency import Bulkheads, Held
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.limit import ConcurrencyLimit
from maniple_dispatcher.limits.messages import Ask, DispatcherReport, Grant
from permits import ask_permit

KEY, LANE, MOST = "bulkhead/x", "text.stats", 5
ONE = ("agent-1", "1")
LIMIT = ConcurrencyLimit(KEY, most=MOST, lane=LANE)


def remembering(number: int = MOST) -> Bulkheads:
    bulkheads = Bulkheads()
    bulkheads.remember({KEY: (number, (LANE,))}, 0.0, 0.0)
    bulkheads.recall(0.0, alone=True)
    return bulkheads


def granted(bulkheads: Bulkheads, want: int, now: float = 0.0) -> int:
    return bulkheads.take_slots(KEY, MOST, want, now)


def test_what_is_only_remembered_takes_room_and_is_not_known_to() -> None:
    bulkheads = remembering()
    assert (granted(bulkheads, 1), bulkheads.is_full(KEY, MOST)) == (0, False)


@pytest.mark.parametrize("alone", [True, False])
def test_what_is_remembered_late_takes_room_with_what_was_granted_meanwhile(*, alone: bool) -> None:
    """Consul may take its time; whoever was not alone has been told."""
    bulkheads = Bulkheads()
    bulkheads.recall(0.0, alone=alone)
    assert granted(bulkheads, 1) == 1
    bulkheads.remember({KEY: (MOST - 2, (LANE,))}, 5.0, 5.0)
    assert bulkheads.unsure(KEY) == (MOST - 3 if alone else 0)
    assert granted(bulkheads, MOST, 5.0) == (2 if alone else MOST - 1)


def test_what_is_remembered_when_agents_and_queues_have_shown_what_there_is_takes_none() -> None:
    bulkheads = Bulkheads()
    bulkheads.recall(0.0, alone=True)
    bulkheads.remember({KEY: (MOST, (LANE,))}, Reports().heard, Reports().heard)
    assert granted(bulkheads, MOST, Reports().heard) == MOST


def test_what_is_remembered_does_not_grow_with_each_restart() -> None:
    number = 8
    for _ in range(20):
        bulkheads = remembering(number)
        bulkheads.forget_stale(lambda _: True, 0.5)
        ((_, (number, _)),) = bulkheads.lately_in_use(lambda _: True)
    assert number == 8


def test_what_agents_tell_of_is_known_for_good() -> None:
    bulkheads = remembering()
    for here, unsure in ((3, 2), (5, 0), (4, 0)):
        bulkheads.record_load(ONE, [Held(KEY, here, ended=0)], 0.5)
        bulkheads.forget_stale(lambda _: True, 0.5)
        assert bulkheads.unsure(KEY) == unsure
    assert (granted(bulkheads, 1), bulkheads.is_full(KEY, MOST)) == (0, True)


def test_what_dispatchers_have_on_its_way_is_known() -> None:
    bulkheads = remembering()
    bulkheads.record_unqueued("d1", {KEY: MOST}, 0.5)
    assert bulkheads.is_full(KEY, MOST)


def test_what_was_granted_since_fills_it_for_certain() -> None:
    bulkheads = remembering(2)
    assert granted(bulkheads, 9) == 3
    assert not bulkheads.is_full(KEY, MOST)
    assert bulkheads.is_full(KEY, 3)


@pytest.mark.parametrize(("lanes", "within"), [((LANE,), 1.0), ((), 10.0)])
def test_what_was_nowhere_for_long_is_remembered_no_more_sooner_where_its_lanes_are_known(
    lanes: tuple[str, ...], within: float
) -> None:
    bulkheads, now = Bulkheads(), 0.0
    bulkheads.remember({KEY: (MOST, lanes)}, 0.0, 0.0)
    bulkheads.recall(0.0, alone=True)
    while bulkheads.unsure(KEY):
        now += 0.5
        bulkheads.forget_stale(lambda _: True, now)
        for doubt in tuple(bulkheads.doubtful(now)):
            bulkheads.looked(doubt.key, 0, now)
    assert 0.0 < now - within * Reports().heard < Reports().heard
    assert granted(bulkheads, 9, now) == MOST
    assert bulkheads.is_full(KEY, MOST)


def answers(dispatchers: Simulation, name: str) -> list[bool | None]:
    said: list[bool | None] = []
    ask_permit(
        dispatchers.alive[name], LIMIT, lambda passes, _: said.append(passes), dispatchers.now
    )
    dispatchers.run(0.5)
    return said


@pytest.mark.parametrize("dies", [False, True])
def test_all_dispatchers_tell_the_same_of_it_also_when_another_owns_it(*, dies: bool) -> None:
    dispatchers = Simulation(1)
    (name,) = dispatchers.alive
    bulkheads = dispatchers.alive[name].owned.bulkheads
    bulkheads.follow_owner(KEY, (MOST, (LANE,)), dispatchers.now, ours=True, unsure=MOST)
    for number in range(2):
        dispatchers.start(f"another-{number}")
    dispatchers.run(3.0)
    if dies:
        dispatchers.kill(dispatchers.owner(KEY))
        dispatchers.run(3.0)
    assert {name: answers(dispatchers, name) for name in dispatchers.alive} == {
        name: [None] for name in dispatchers.alive
    }


def test_an_owner_of_an_earlier_release_refuses_and_one_that_asks_it_tells_so() -> None:
    coordinator = Coordinator("one", LeaseOwner(lambda _: None), 0.0)
    for name in ("one", "two"):
        coordinator.on_report(DispatcherReport(dispatcher=name, ready=True), 10.0)
    key = next(k for k in map(str, range(99)) if coordinator.peers.owner(k) == "two")
    said: list[bool | None] = []
    ask_permit(
        coordinator,
        ConcurrencyLimit(key, most=1, lane=LANE),
        lambda passes, _: said.append(passes),
        10.0,
    )
    (ask,) = coordinator.make_report(10.0).asks
    assert isinstance(ask, Ask)
    old = msgspec.json.encode({"key": key, "to": "one", "number": ask.number, "granted": 0})
    grant = msgspec.json.decode(old, type=Grant)
    coordinator.on_report(DispatcherReport(dispatcher="two", ready=True, grants=(grant,)), 10.1)
    assert said == [False]
