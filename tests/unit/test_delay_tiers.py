import pytest

from maniple.delay_tiers import delay_tier, other_tier
from maniple.topology import DELAY_TIERS


@pytest.mark.parametrize(
    ("seconds", "tier"),
    [(0.0, 0.1), (0.1, 0.1), (0.24, 0.1), (0.25, 0.25), (59.9, 30.0), (60, 60.0), (1e9, 3600.0)],
)
def test_a_wait_takes_the_longest_tier_that_is_not_too_long(seconds: float, tier: float) -> None:
    assert delay_tier(seconds) == tier


@pytest.mark.parametrize("tier", DELAY_TIERS)
def test_there_is_another_tier_beside_each(tier: float) -> None:
    other = other_tier(tier)
    assert other in DELAY_TIERS
    assert other != tier


@pytest.mark.parametrize("most", DELAY_TIERS[1:])
def test_all_tiers_are_tried_for_which_a_task_has_time_and_none_that_is_longer(
    most: float,
) -> None:
    tier, tried = DELAY_TIERS[0], set[float]()
    for _ in range(2 * len(DELAY_TIERS)):
        tier = other_tier(tier, most)
        tried.add(tier)
    tiers = {one for one in DELAY_TIERS if one <= most}
    assert tried == tiers or most == DELAY_TIERS[-1]
    assert all(other_tier(one, most) <= most for one in DELAY_TIERS)
