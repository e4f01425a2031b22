"""A lane that has just refused is not asked by every task."""

import pytest

from maniple.messages import Waiting
from maniple.timings import Queues
from maniple.topology import DELAY_TIERS
from maniple_runtime.destination_backoff import MAX_DOORS, TIER_KEYS, DestinationBackoff

NOW = 1000.0
SHUT_FOR, STUCK_FOR, MAX_STUCK_FOR = Queues().shut, Queues().stuck, Queues().most_stuck
LANE = ("maniple.lanes", "text.stats")


def test_a_door_is_open_until_it_refuses_and_again_once_it_takes() -> None:
    doors = DestinationBackoff()
    assert doors.refusal(LANE, NOW) is None
    doors.shut(LANE, Waiting.OVERLOADED, NOW)
    assert doors.refusal(LANE, NOW) is Waiting.OVERLOADED
    assert doors.refusal(("maniple.lanes", "other"), NOW) is None
    doors.reopen(LANE)
    assert doors.refusal(LANE, NOW) is None


def test_one_task_at_a_time_tries_a_door_that_has_been_shut_for_long_enough() -> None:
    doors = DestinationBackoff()
    doors.shut(LANE, Waiting.NO_AGENT, NOW)
    later = NOW + SHUT_FOR
    assert [doors.refusal(LANE, later) for _ in range(3)] == [None, *[Waiting.NO_AGENT] * 2]
    assert doors.refusal(LANE, later + SHUT_FOR) is None


def test_a_lane_that_does_not_confirm_is_tried_ever_more_seldom_by_one_task() -> None:
    doors, now, tries = DestinationBackoff(), NOW, list[float]()
    doors.shut(LANE, Waiting.UNCONFIRMED, now)
    while now < NOW + 5 * MAX_STUCK_FOR:
        now += 1.0
        if doors.refusal(LANE, now) is None:
            tries.append(now - NOW)
            doors.shut(LANE, Waiting.UNCONFIRMED, now)
            doors.shut(LANE, Waiting.UNCONFIRMED, now)  # what was on its way besides
    assert tries == [STUCK_FOR, 15.0, 35.0, 75.0, 135.0, 195.0, 255.0]
    doors.reopen(LANE)
    doors.shut(LANE, Waiting.UNCONFIRMED, now)
    assert doors.refusal(LANE, now + STUCK_FOR) is None


def test_names_from_outside_cannot_fill_the_memory() -> None:
    doors = DestinationBackoff()
    for number in range(MAX_DOORS + 10):
        doors.shut(("maniple.lanes", str(number)), Waiting.NO_AGENT, NOW)
    assert doors.refusal(("maniple.lanes", str(MAX_DOORS + 1)), NOW) is None
    later = NOW + 2 * SHUT_FOR + 0.000001
    doors.shut(LANE, Waiting.NO_AGENT, later)
    assert doors.refusal(LANE, later) is Waiting.NO_AGENT


def tiers(doors: DestinationBackoff, tier: float, now: float) -> tuple[float, float]:
    """Return the tier that is tried for this one, and after how many seconds."""
    (_, name), rest = doors.first(TIER_KEYS[tier], now)
    return float(name), rest


def test_instead_of_a_tier_that_is_shut_the_nearest_that_is_not_is_tried() -> None:
    doors = DestinationBackoff()
    assert tiers(doors, 1.0, NOW) == (1.0, 0.0)
    for tier, nearest in ((1.0, 2.0), (2.0, 0.5), (0.5, 0.25), (0.25, 5.0)):
        doors.shut(TIER_KEYS[tier][0], Waiting.UNCONFIRMED, NOW)
        assert tiers(doors, 1.0, NOW) == (nearest, 0.0)


def test_when_all_tiers_are_shut_the_one_that_opens_next_is_waited_for() -> None:
    doors = DestinationBackoff()
    for number, tier in enumerate(DELAY_TIERS):
        doors.shut(TIER_KEYS[tier][0], Waiting.UNCONFIRMED, NOW - number % 5)
    tier, rest = tiers(doors, 3600.0, NOW)
    assert tier == 300.0
    assert rest == pytest.approx(STUCK_FOR - 4)
    assert tiers(doors, 3600.0, NOW + rest) == (300.0, 0.0)
