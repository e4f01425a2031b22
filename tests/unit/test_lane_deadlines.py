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
WALL = 1_800_000_000.0  # of the cluster when a scene begins
LANE = "text.stats"
WEEK = 7 * 24 * HOUR


class Scene:
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
    scene = Scene()
    scene.put(ttl=20.5)
    scene.run(20)
    assert scene.turned == []  # it is not ours, and nothing of ours in it is over
    scene.run(10)
    (at,) = scene.turned
    assert 20.5 < at <= 20.5 + 5


def test_a_lane_that_agents_read_is_left_to_them_until_they_are_gone() -> None:
    scene = Scene()
    scene.consumers, scene.moves = 1, True
    scene.put(ttl=2)
    scene.run(60)
    assert scene.turned == []
    assert scene.looks <= 2 * (60 / TIMES.every + 2)  # as often as if nothing were over
    scene.consumers = 0
    scene.run(10)
    (at,) = scene.turned
    assert 60 < at <= 60 + TIMES.every + 2 * TIMES.look


def test_agents_that_are_just_coming_back_find_their_tasks_where_they_were() -> None:
    scene = Scene(owns=True)
    scene.consumers, scene.moves = 1, True
    scene.put(ttl=2)
    for _ in range(10):
        scene.run(5)
        scene.consumers = 0
        (place, _) = scene.places()
        place.look_at = 0.0  # looked at just then
        scene.run(1)
        scene.consumers = 1
    assert scene.turned == []


def test_a_lane_whose_agents_are_all_busy_is_turned_over_within_5_seconds_of_a_deadline() -> None:
    for owns in (True, False):
        scene = Scene(owns=owns)
        scene.consumers = 4
        scene.put(ttl=WEEK)
        scene.put(ttl=20.5)
        scene.known_by_now()
        scene.run(20)
        assert scene.turned == []
        scene.run(60)
        (at,) = scene.turned
        assert 20.5 < at <= 20.5 + 5


def test_a_lane_from_which_agents_take_is_not_turned_over_though_none_has_told_of_an_end() -> None:
    scene = Scene()
    scene.consumers, scene.ready = 1, 200
    scene.known.note(LANE, WALL + 2)
    for _ in range(100):
        scene.ready -= 1
        scene.run(1)
    assert scene.turned == []
    scene.run(15)
    assert len(scene.turned) == 1


def test_a_lane_from_which_agents_take_again_is_left_to_them_when_a_deadline_passes() -> None:
    scene = Scene(owns=True)
    scene.consumers, scene.ready = 1, 200
    scene.known.note(LANE, WALL + 30.5)
    scene.known_by_now()
    scene.known.stir([LANE])
    scene.run(29)  # nobody takes any, and nothing is over
    for _ in range(30):
        scene.ready -= 1
        scene.run(1)
    assert scene.turned == []


def test_suspects_that_are_over_end_behind_a_long_one_though_the_other_tasks_move() -> None:
    for owns in (True, False):
        scene = Scene(owns=owns)
        scene.consumers, scene.moves, scene.suspects = 1, True, 1
        scene.put(ttl=20.5)
        scene.known_by_now()
        scene.run(60)
        (at,) = scene.turned
        assert 20.5 < at <= 20.5 + 5


def test_where_agents_cease_to_take_what_is_over_ends_within_10_seconds_of_its_deadline() -> None:
    for owns in (True, False):
        for stops in range(1, 30):
            scene = Scene(owns=owns)
            scene.consumers, scene.moves = 1, True
            scene.put(ttl=5.5)
            scene.put(ttl=20.5)
            scene.known_by_now()
            scene.run(stops)
            scene.moves = False
            scene.run(60 - stops)
            latest = 20.5 + 10 if stops <= 20 else stops + 12
            assert 20.5 < scene.turned[-1] <= latest


def test_what_a_dispatcher_knew_that_is_gone_is_found_once_where_agents_are_busy_too() -> None:
    for owns, turned in ((True, 1), (False, 0)):
        scene = Scene(owns=owns)
        scene.known.learn_lane([LANE])
        scene.ready, scene.consumers = 5, 1
        scene.run(60)
        assert len(scene.turned) == turned
        scene.others = frozenset()
        for _ in range(60):
            scene.known.stir([LANE])  # what its agents have is known to who sent it
            scene.run(1)
        assert len(scene.turned) == 2 * turned


def test_a_very_long_lane_is_left_to_the_agents_that_read_it() -> None:
    scene = Scene()
    scene.consumers, scene.ready = 1, lane_deadlines.MOST_READ
    scene.put(ttl=2)
    scene.run(60)
    assert scene.turned == []
    scene.consumers = 0
    scene.run(10)
    assert len(scene.turned) == 1


def test_a_dispatcher_that_starts_turns_over_once_what_it_owns_and_knows_nothing_of() -> None:
    for owns, turned in ((True, 1), (False, 0)):
        scene = Scene(owns=owns)
        scene.known.learn_lane([LANE])
        scene.ready = 5
        scene.run(120)
        assert len(scene.turned) == turned
        assert all(at <= 5 for at in scene.turned)


def test_what_agents_may_have_left_or_a_dispatcher_knew_that_is_gone_is_looked_through() -> None:
    scene = Scene(owns=True)
    scene.put(ttl=WEEK)
    scene.known_by_now()
    scene.run(60)
    assert scene.turned == []
    scene.known.stir([LANE])
    scene.run(10)
    assert len(scene.turned) == 1
    scene.others = frozenset()
    scene.run(10)
    assert len(scene.turned) == 2
    scene.others = frozenset({"new"})  # it knows nothing that we do not
    scene.run(60)
    assert len(scene.turned) == 2


def test_a_lane_in_which_nothing_is_over_is_not_even_looked_at() -> None:
    scene = Scene(owns=True)
    scene.put(ttl=30 * MINUTE)
    scene.known_by_now()
    scene.run(60)
    assert scene.looks == 0


def test_a_queue_that_shows_nothing_is_looked_at_until_it_shows_something_again() -> None:
    scene = Scene()
    scene.put(ttl=2)
    scene.known_by_now()
    scene.ready = 0  # so RabbitMQ answers while its leader does not
    scene.run(100)
    assert scene.turned == []
    scene.ready = 1
    scene.run(10)
    assert len(scene.turned) == 1


@pytest.mark.parametrize(("consumers", "part"), [(0, 2), (1, 1 + lane_deadlines.REST)])
def test_a_long_lane_is_turned_over_a_part_of_the_time_at_most(consumers: int, part: int) -> None:
    scene = Scene()
    scene.takes, scene.consumers = 30.0, consumers
    for second in range(600):
        scene.put(ttl=second + 1)
    scene.run(600)
    gaps = [b - a for a, b in pairwise(scene.turned)]
    assert gaps
    assert min(gaps) >= part * scene.takes - TIMES.look


def test_a_queue_that_fails_is_tried_again_ever_later_and_nothing_is_forgotten() -> None:
    scene = Scene()
    scene.put(ttl=1)
    tried = []
    for _ in range(300):
        scene.now += TIMES.look
        scene.known.advance_time(WALL + scene.now, scene.now, scene.others)
        for place in scene.known.to_look_at(scene.now):
            if scene.known.see(place, 1, 0, scene.now):
                tried.append((place, scene.now))
                scene.known.begin_turn(place)
                scene.known.fail(place, scene.now)
    times = [at for place, at in tried if not place.is_suspects]
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps == sorted(gaps)
    assert TIMES.every <= gaps[0] < gaps[-1] <= TIMES.longest + 2 * TIMES.look
    (place, _) = scene.places()
    assert place.due


def test_a_consumer_that_appears_ends_the_turning_over() -> None:
    scene = Scene()
    scene.put(ttl=1)
    (place, _) = scene.places()
    scene.known.begin_turn(place)
    consumed = []
    for consumers in (0, 1, 0):
        scene.now += TIMES.look
        assert place in scene.known.to_look_at(scene.now)
        assert not scene.known.see(place, 1, consumers, scene.now)
        consumed.append(place.consumed)
    assert consumed == [False, True, True]
    scene.known.end_turn(place, scene.now, 2.0, whole=False)
    assert (place.due, place.turning) == (True, False)


def test_agents_that_have_read_it_all_the_time_do_not_end_it() -> None:
    scene = Scene()
    scene.ready, scene.consumers = 1, 2
    scene.known.note(LANE, WALL + 1)
    begun: list[Place] = []
    while not begun:
        scene.now += TIMES.look
        scene.known.advance_time(WALL + scene.now, scene.now, scene.others)
        begun = [one for one in scene.known.to_look_at(scene.now) if scene.known.see(one, 1, 2, 9)]
    (place, *_) = begun
    scene.known.begin_turn(place)
    for consumers in (2, 3, 0, 1):
        scene.known.see(place, 1, consumers, scene.now)
    assert not place.consumed


def test_of_several_dispatchers_that_know_of_a_deadline_the_owner_turns_the_lane_over() -> None:
    """Unless nothing is heard of it: then the other does."""
    for heard, turned in ((True, [1, 0]), (False, [1, 1])):
        owner, other = Scene(owns=True), Scene()
        for scene in (owner, other):
            scene.put(ttl=10)
            scene.known_by_now()
            scene.known.take_turns()
        for _ in range(30):
            for scene in (owner, other):
                scene.run(1)
            if heard:
                other.known.on_news(owner.known.take_turns(), other.now)
        assert [len(scene.turned) for scene in (owner, other)] == turned


def test_dispatchers_hear_in_each_others_reports_what_is_turned_over() -> None:
    owner, other = Scene(owns=True), Scene()
    fleets = [
        Coordinator(name, LeaseOwner(lambda _: None, Timings()), 0.0, lanes=scene.known)
        for name, scene in (("owner", owner), ("other", other))
    ]
    for scene in (owner, other):
        scene.put(ttl=10)
        scene.known_by_now()
        scene.known.take_turns()
        scene.run(11)
    report = fleets[0].make_report(owner.now)
    assert report.turns[owner.places()[0].queue] == (WALL + 11, True)
    fleets[1].on_report(decode(encode(report), type=DispatcherReport), other.now)
    other.run(30)
    assert (len(owner.turned), len(other.turned)) == (1, 0)
    assert fleets[0].make_report(owner.now).turns == {}  # told once


def test_what_passed_after_another_began_is_not_taken_for_looked_through() -> None:
    scene = Scene()
    scene.put(ttl=10)
    scene.known_by_now()
    (place, _) = scene.places()
    scene.run(11)
    assert place.due
    scene.known.on_news({place.queue: (WALL + 9, True), "maniple.lane.unknown": (WALL, True)}, 11.0)
    assert place.due
    scene.known.on_news({place.queue: (WALL + 30, False)}, 11.0)
    assert place.due
    scene.run(2)
    assert scene.turned == []  # as long as another is at it
    scene.run(4)
    assert len(scene.turned) == 1


def test_a_lane_is_looked_at_again_soon_while_no_dispatcher_owns_it_yet() -> None:
    scene = Scene()
    scene.known.learn_lane([LANE])
    scene.ready = 1
    scene.run(3)  # all of them listen
    scene.owned = True
    scene.run(2)
    assert len(scene.turned) == 1


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
