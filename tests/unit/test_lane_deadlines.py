"""Which lanes a dispatcher turns over, and when: only where something is over and nobody reads."""

from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock, call

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.json import decode, encode

from maniple.messages import Envelope
from maniple.timings import Expiry, Timings
from maniple_dispatcher.egress import lane_deadlines
from maniple_dispatcher.egress.deadlines import HOUR, MINUTE
from maniple_dispatcher.egress.lane_deadlines import MOST_BLANK, LaneDeadlines, Place
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.messages import DispatcherReport

TIMES = Expiry()
WALL = 1_800_000_000.0  # of the cluster when a lane is first watched
LANE = "text.stats"
WEEK = 7 * 24 * HOUR


class WatchedLane:
    """A dispatcher's view of one lane, second by second; `turned` says when it was turned over."""

    def __init__(self, *, owns: bool = False) -> None:
        self.others = frozenset({"other"})
        self.owned = owns
        self.known = LaneDeadlines(TIMES, lambda _: self.owned, WALL)
        self.ready, self.consumers = 0, 0
        self.suspects = 0  # that wait in the other queue, which the same agents read
        self.moves = False  # whether agents tell each second of something that has ended
        self.now = 0.0
        self.turned: list[float] = []
        self.looks = 0
        self.takes = 0.0  # seconds that turning it over takes

    def put(self, ttl: float) -> None:
        self.ready += 1
        self.known.note(LANE, WALL + self.now + ttl)

    def places(self) -> tuple[Place, Place]:
        return self.known._lanes[LANE].places

    def known_by_now(self) -> None:
        """Record that it was turned over, with no agent there since."""
        for place in self.places():
            self.known.begin_turn(place)
            self.known.end_turn(place, self.now, 0.0, whole=True)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += TIMES.look
            if self.moves:
                self.known.move(LANE)
            self.known.advance_time(WALL + self.now, self.now, self.others)
            for place in self.known.to_look_at(self.now):
                self.look(place)

    def look(self, place: Place) -> None:
        self.looks += 1
        ready = self.suspects if place.is_suspects else self.ready
        consumers = 0 if place.is_suspects and not self.suspects else self.consumers
        if self.known.see(place, ready, consumers, self.now):
            self.turned.append(self.now)
            self.known.begin_turn(place)
            self.known.end_turn(place, self.now + self.takes, self.takes, whole=True)


def test_a_lane_without_agents_is_turned_over_within_5_seconds_of_a_deadline() -> None:
    watched = WatchedLane()
    watched.put(ttl=20.5)
    watched.run(20)
    assert watched.turned == []  # it is not ours, and nothing of ours in it is over
    watched.run(10)
    (at,) = watched.turned
    assert 20.5 < at <= 20.5 + 5


def test_a_lane_that_agents_read_is_left_to_them_until_they_are_gone() -> None:
    watched = WatchedLane()
    watched.consumers, watched.moves = 1, True
    watched.put(ttl=2)
    watched.run(60)
    assert watched.turned == []
    assert watched.looks <= 2 * (60 / TIMES.every + 2)  # as often as if nothing were over
    watched.consumers = 0
    watched.run(10)
    (at,) = watched.turned
    assert 60 < at <= 60 + TIMES.every + 2 * TIMES.look


def test_agents_that_are_just_coming_back_find_their_tasks_where_they_were() -> None:
    watched = WatchedLane(owns=True)
    watched.consumers, watched.moves = 1, True
    watched.put(ttl=2)
    for _ in range(10):
        watched.run(5)
        watched.consumers = 0
        (place, _) = watched.places()
        place.look_at = 0.0  # looked at just then
        watched.run(1)
        watched.consumers = 1
    assert watched.turned == []


def test_a_lane_whose_agents_are_all_busy_is_turned_over_within_5_seconds_of_a_deadline() -> None:
    for owns in (True, False):
        watched = WatchedLane(owns=owns)
        watched.consumers = 4
        watched.put(ttl=WEEK)
        watched.put(ttl=20.5)
        watched.known_by_now()
        watched.run(20)
        assert watched.turned == []
        watched.run(60)
        (at,) = watched.turned
        assert 20.5 < at <= 20.5 + 5


def test_a_lane_from_which_agents_take_is_not_turned_over_though_none_has_told_of_an_end() -> None:
    watched = WatchedLane()
    watched.consumers, watched.ready = 1, 200
    watched.known.note(LANE, WALL + 2)
    for _ in range(100):
        watched.ready -= 1
        watched.run(1)
    assert watched.turned == []
    watched.run(15)
    assert len(watched.turned) == 1


def test_a_lane_from_which_agents_take_again_is_left_to_them_when_a_deadline_passes() -> None:
    watched = WatchedLane(owns=True)
    watched.consumers, watched.ready = 1, 200
    watched.known.note(LANE, WALL + 30.5)
    watched.known_by_now()
    watched.known.stir([LANE])
    watched.run(29)  # nobody takes any, and nothing is over
    for _ in range(30):
        watched.ready -= 1
        watched.run(1)
    assert watched.turned == []


def test_suspects_that_are_over_end_behind_a_long_one_though_the_other_tasks_move() -> None:
    for owns in (True, False):
        watched = WatchedLane(owns=owns)
        watched.consumers, watched.moves, watched.suspects = 1, True, 1
        watched.put(ttl=20.5)
        watched.known_by_now()
        watched.run(60)
        (at,) = watched.turned
        assert 20.5 < at <= 20.5 + 5


def test_where_agents_cease_to_take_what_is_over_ends_within_10_seconds_of_its_deadline() -> None:
    for owns in (True, False):
        for stops in range(1, 30):
            watched = WatchedLane(owns=owns)
            watched.consumers, watched.moves = 1, True
            watched.put(ttl=5.5)
            watched.put(ttl=20.5)
            watched.known_by_now()
            watched.run(stops)
            watched.moves = False
            watched.run(60 - stops)
            latest = 20.5 + 10 if stops <= 20 else stops + 12
            assert 20.5 < watched.turned[-1] <= latest


def test_what_a_dispatcher_knew_that_is_gone_is_found_once_where_agents_are_busy_too() -> None:
    for owns, turned in ((True, 1), (False, 0)):
        watched = WatchedLane(owns=owns)
        watched.known.learn_lane([LANE])
        watched.ready, watched.consumers = 5, 1
        watched.run(60)
        assert len(watched.turned) == turned
        watched.others = frozenset()
        for _ in range(60):
            watched.known.stir([LANE])  # what its agents have is known to who sent it
            watched.run(1)
        assert len(watched.turned) == 2 * turned


def test_a_very_long_lane_is_left_to_the_agents_that_read_it() -> None:
    watched = WatchedLane()
    watched.consumers, watched.ready = 1, lane_deadlines.MOST_READ
    watched.put(ttl=2)
    watched.run(60)
    assert watched.turned == []
    watched.consumers = 0
    watched.run(10)
    assert len(watched.turned) == 1


def test_a_dispatcher_that_starts_turns_over_once_what_it_owns_and_knows_nothing_of() -> None:
    for owns, turned in ((True, 1), (False, 0)):
        watched = WatchedLane(owns=owns)
        watched.known.learn_lane([LANE])
        watched.ready = 5
        watched.run(120)
        assert len(watched.turned) == turned
        assert all(at <= 5 for at in watched.turned)


def test_what_agents_may_have_left_or_a_dispatcher_knew_that_is_gone_is_looked_through() -> None:
    watched = WatchedLane(owns=True)
    watched.put(ttl=WEEK)
    watched.known_by_now()
    watched.run(60)
    assert watched.turned == []
    watched.known.stir([LANE])
    watched.run(10)
    assert len(watched.turned) == 1
    watched.others = frozenset()
    watched.run(10)
    assert len(watched.turned) == 2
    watched.others = frozenset({"new"})  # it knows nothing that we do not
    watched.run(60)
    assert len(watched.turned) == 2


def test_a_lane_in_which_nothing_is_over_is_not_even_looked_at() -> None:
    watched = WatchedLane(owns=True)
    watched.put(ttl=30 * MINUTE)
    watched.known_by_now()
    watched.run(60)
    assert watched.looks == 0


def test_a_queue_that_shows_nothing_is_looked_at_until_it_shows_something_again() -> None:
    watched = WatchedLane()
    watched.put(ttl=2)
    watched.known_by_now()
    watched.ready = 0  # so RabbitMQ answers while its leader does not
    watched.run(100)
    assert watched.turned == []
    watched.ready = 1
    watched.run(10)
    assert len(watched.turned) == 1


@pytest.mark.parametrize(("consumers", "part"), [(0, 2), (1, 1 + lane_deadlines.REST)])
def test_a_long_lane_is_turned_over_a_part_of_the_time_at_most(consumers: int, part: int) -> None:
    watched = WatchedLane()
    watched.takes, watched.consumers = 30.0, consumers
    for second in range(600):
        watched.put(ttl=second + 1)
    watched.run(600)
    gaps = [b - a for a, b in pairwise(watched.turned)]
    assert gaps
    assert min(gaps) >= part * watched.takes - TIMES.look


def test_a_queue_that_fails_is_tried_again_ever_later_and_nothing_is_forgotten() -> None:
    watched = WatchedLane()
    watched.put(ttl=1)
    tried = []
    for _ in range(300):
        watched.now += TIMES.look
        watched.known.advance_time(WALL + watched.now, watched.now, watched.others)
        for place in watched.known.to_look_at(watched.now):
            if watched.known.see(place, 1, 0, watched.now):
                tried.append((place, watched.now))
                watched.known.begin_turn(place)
                watched.known.fail(place, watched.now)
    times = [at for place, at in tried if not place.is_suspects]
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps == sorted(gaps)
    assert TIMES.every <= gaps[0] < gaps[-1] <= TIMES.longest + 2 * TIMES.look
    (place, _) = watched.places()
    assert place.due


def test_a_consumer_that_appears_ends_the_turning_over() -> None:
    watched = WatchedLane()
    watched.put(ttl=1)
    (place, _) = watched.places()
    watched.known.begin_turn(place)
    consumed = []
    for consumers in (0, 1, 0):
        watched.now += TIMES.look
        assert place in watched.known.to_look_at(watched.now)
        assert not watched.known.see(place, 1, consumers, watched.now)
        consumed.append(place.consumed)
    assert consumed == [False, True, True]
    watched.known.end_turn(place, watched.now, 2.0, whole=False)
    assert (place.due, place.turning) == (True, False)


def test_agents_that_have_read_it_all_the_time_do_not_end_it() -> None:
    watched = WatchedLane()
    watched.ready, watched.consumers = 1, 2
    watched.known.note(LANE, WALL + 1)
    begun: list[Place] = []
    while not begun:
        watched.now += TIMES.look
        watched.known.advance_time(WALL + watched.now, watched.now, watched.others)
        begun = [
            one for one in watched.known.to_look_at(watched.now) if watched.known.see(one, 1, 2, 9)
        ]
    (place, *_) = begun
    watched.known.begin_turn(place)
    for consumers in (2, 3, 0, 1):
        watched.known.see(place, 1, consumers, watched.now)
    assert not place.consumed


def test_of_several_dispatchers_that_know_of_a_deadline_the_owner_turns_the_lane_over() -> None:
    """Unless nothing is heard of it: then the other does."""
    for heard, turned in ((True, [1, 0]), (False, [1, 1])):
        owner, other = WatchedLane(owns=True), WatchedLane()
        for watched in (owner, other):
            watched.put(ttl=10)
            watched.known_by_now()
            watched.known.take_turns()
        for _ in range(30):
            for watched in (owner, other):
                watched.run(1)
            if heard:
                other.known.on_news(owner.known.take_turns(), other.now)
        assert [len(watched.turned) for watched in (owner, other)] == turned


def test_dispatchers_hear_in_each_others_reports_what_is_turned_over() -> None:
    owner, other = WatchedLane(owns=True), WatchedLane()
    coordinators = [
        Coordinator(name, LeaseOwner(lambda _: None, Timings()), 0.0, lanes=watched.known)
        for name, watched in (("owner", owner), ("other", other))
    ]
    for watched in (owner, other):
        watched.put(ttl=10)
        watched.known_by_now()
        watched.known.take_turns()
        watched.run(11)
    report = coordinators[0].make_report(owner.now)
    assert report.turns[owner.places()[0].queue] == (WALL + 11, True)
    coordinators[1].on_report(decode(encode(report), type=DispatcherReport), other.now)
    other.run(30)
    assert (len(owner.turned), len(other.turned)) == (1, 0)
    assert coordinators[0].make_report(owner.now).turns == {}  # told once


def test_what_passed_after_another_began_is_not_taken_for_looked_through() -> None:
    watched = WatchedLane()
    watched.put(ttl=10)
    watched.known_by_now()
    (place, _) = watched.places()
    watched.run(11)
    assert place.due
    watched.known.on_news(
        {place.queue: (WALL + 9, True), "maniple.lane.unknown": (WALL, True)}, 11.0
    )
    assert place.due
    watched.known.on_news({place.queue: (WALL + 30, False)}, 11.0)
    assert place.due
    watched.run(2)
    assert watched.turned == []  # as long as another is at it
    watched.run(4)
    assert len(watched.turned) == 1


def test_a_lane_is_looked_at_again_soon_while_no_dispatcher_owns_it_yet() -> None:
    watched = WatchedLane()
    watched.known.learn_lane([LANE])
    watched.ready = 1
    watched.run(3)  # all of them listen
    watched.owned = True
    watched.run(2)
    assert len(watched.turned) == 1


@given(st.lists(st.tuples(st.floats(-2 * HOUR, 2 * HOUR), st.floats(-5, 5 * HOUR)), max_size=60))
@example([(0.0, 1.5 * HOUR), (2 * HOUR, HOUR), (-2 * HOUR, 1.5 * HOUR)])  # a clock is set back
def test_what_a_dispatcher_does_not_note_again_is_known_already(
    tasks: list[tuple[float, float]],
) -> None:
    every, spared = (LaneDeadlines(TIMES, lambda _: True, WALL) for _ in range(2))
    lanes = cast("Any", SimpleNamespace(_deadlines=spared))
    now = WALL
    for pause, ttl in tasks:
        now += pause
        for known in (every, spared):
            known.advance_time(now, now, frozenset())
        at = datetime.fromtimestamp(now + ttl, UTC)
        envelope = Envelope(id="1", capability=LANE, lane=LANE, submitted_at=at, deadline=at)
        every.note(LANE, at.timestamp())
        LanePublisher._note(lanes, envelope)
        seen, wanted = (known._lanes[LANE].deadlines for known in (spared, every))
        assert (seen._at, seen.first) == (wanted._at, wanted.first)


def test_of_what_ends_within_an_hour_that_is_far_one_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = LaneDeadlines(TIMES, lambda _: True, WALL)
    note = Mock(wraps=known.note)
    monkeypatch.setattr(known, "note", note)
    for seconds in range(100):
        at = datetime.fromtimestamp(WALL + 24 * HOUR + seconds, UTC)
        envelope = Envelope(id="1", capability=LANE, lane=LANE, submitted_at=at, deadline=at)
        LanePublisher._note(cast("Any", SimpleNamespace(_deadlines=known)), envelope)
    assert note.call_args_list == [call(LANE, WALL + 24 * HOUR)]


def test_names_that_are_no_lanes_and_too_many_are_not_kept() -> None:
    known = LaneDeadlines(TIMES, lambda _: True, WALL)
    known.stir(["", "a b", "../x", "a@", "a@b@c", "A", "a\n"])
    assert list(known.lanes) == []
    known.learn_lane(["text.stats@eu-1"])
    known.learn_lane(f"lane-{number}" for number in range(lane_deadlines.MOST_LANES + 10))
    known.note("one.more", WALL)
    assert len(list(known.lanes)) == lane_deadlines.MOST_LANES
    assert len(known.to_look_at(0.0)) == lane_deadlines.MOST_SLOW


def test_queues_that_may_not_answer_come_behind_the_others_and_each_gets_its_turn() -> None:
    deadlines = LaneDeadlines(Expiry(), lambda _: True, 0.0)
    silent = [f"silent-{number}" for number in range(3 * MOST_BLANK)]
    for lane in silent:
        deadlines.note(lane, 1.0)
    seen: set[str] = set()
    for second in range(2, 60):
        now = float(second)
        if second == 30:
            deadlines.note("well", 31.0)
        deadlines.advance_time(now, now, frozenset())
        looks = deadlines.to_look_at(now)
        blank = [place.blank for place in looks]
        assert blank == sorted(blank)
        assert sum(blank) <= MOST_BLANK
        seen |= {place.lane for place in looks if second > 40}
        for place in looks:
            deadlines.see(place, int(place.lane == "well"), 0, now)
    assert seen == {*silent, "well"}
