"""A lane that has just refused is not asked by every task."""

import pytest

from maniple.messages import Waiting
from maniple.timings import Queues
from maniple.topology import DELAY_TIERS
from maniple_runtime.destination_backoff import MAX_FAILING, TIER_KEYS, DestinationBackoff

NOW = 1000.0
SHUT_FOR, STUCK_FOR, MAX_STUCK_FOR = Queues().shut, Queues().stuck, Queues().most_stuck
LANE = ("maniple.lanes", "text.stats")


def test_a_destination_is_open_until_it_refuses_and_again_once_it_takes() -> None:
    backoff = DestinationBackoff()
    assert backoff.refusal(LANE, NOW) is None
    backoff.shut(LANE, Waiting.OVERLOADED, NOW)
    assert backoff.refusal(LANE, NOW) is Waiting.OVERLOADED
    assert backoff.refusal(("maniple.lanes", "other"), NOW) is None
    backoff.reopen(LANE)
    assert backoff.refusal(LANE, NOW) is None


def test_one_task_at_a_time_tries_a_destination_that_has_been_shut_for_long_enough() -> None:
    backoff = DestinationBackoff()
    backoff.shut(LANE, Waiting.NO_AGENT, NOW)
    later = NOW + SHUT_FOR
    assert [backoff.refusal(LANE, later) for _ in range(3)] == [None, *[Waiting.NO_AGENT] * 2]
    assert backoff.refusal(LANE, later + SHUT_FOR) is None


def test_a_lane_that_does_not_confirm_is_tried_ever_more_seldom_by_one_task() -> None:
    backoff, now, tries = DestinationBackoff(), NOW, list[float]()
    backoff.shut(LANE, Waiting.UNCONFIRMED, now)
    while now < NOW + 5 * MAX_STUCK_FOR:
        now += 1.0
        if backoff.refusal(LANE, now) is None:
            tries.append(now - NOW)
            backoff.shut(LANE, Waiting.UNCONFIRMED, now)
            backoff.shut(LANE, Waiting.UNCONFIRMED, now)  # what was on its way besides
    assert tries == [STUCK_FOR, 15.0, 35.0, 75.0, 135.0, 195.0, 255.0]
    backoff.reopen(LANE)
    backoff.shut(LANE, Waiting.UNCONFIRMED, now)
    assert backoff.refusal(LANE, now + STUCK_FOR) is None


def test_names_from_outside_cannot_fill_the_memory() -> None:
    backoff = DestinationBackoff()
    for number in range(MAX_FAILING + 10):
        backoff.shut(("maniple.lanes", str(number)), Waiting.NO_AGENT, NOW)
    assert backoff.refusal(("maniple.lanes", str(MAX_FAILING + 1)), NOW) is None
    later = NOW + 2 * SHUT_FOR + 0.000001
    backoff.shut(LANE, Waiting.NO_AGENT, later)
    assert backoff.refusal(LANE, later) is Waiting.NO_AGENT


def tiers(backoff: DestinationBackoff, tier: float, now: float) -> tuple[float, float]:
    """Return the tier that is tried for this one, and after how many seconds."""
    (_, name), rest = backoff.first(TIER_KEYS[tier], now)
    return float(name), rest


def test_instead_of_a_tier_that_is_shut_the_nearest_that_is_not_is_tried() -> None:
    backoff = DestinationBackoff()
    assert tiers(backoff, 1.0, NOW) == (1.0, 0.0)
    for tier, nearest in ((1.0, 2.0), (2.0, 0.5), (0.5, 0.25), (0.25, 5.0)):
        backoff.shut(TIER_KEYS[tier][0], Waiting.UNCONFIRMED, NOW)
        assert tiers(backoff, 1.0, NOW) == (nearest, 0.0)


def test_when_all_tiers_are_shut_the_one_that_opens_next_is_waited_for() -> None:
    backoff = DestinationBackoff()
    for number, tier in enumerate(DELAY_TIERS):
        backoff.shut(TIER_KEYS[tier][0], Waiting.UNCONFIRMED, NOW - number % 5)
    tier, rest = tiers(backoff, 3600.0, NOW)
    assert tier == 300.0
    assert rest == pytest.approx(STUCK_FOR - 4)
    assert tiers(backoff, 3600.0, NOW + rest) == (300.0, 0.0)
