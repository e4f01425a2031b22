"""Dispatchers that begin anew together let no more through than there is room for."""

import random

import pytest

from limits_simulation import Simulation
from maniple_dispatcher.limits.limit import ConcurrencyLimit
from permits import ask_permit

MOST = 10
LISTENING = 0.5  # seconds after which all listen yet


@pytest.mark.parametrize("seed", range(30))
def test_who_owns_a_bulkhead_from_now_on_first_hears_what_others_have_granted(seed: int) -> None:
    chance = random.Random(seed)
    dispatchers = Simulation(3, travel=lambda: chance.uniform(0.001, 0.03))
    limits = [ConcurrencyLimit(f"bulkhead/{n}", most=MOST, lane="a") for n in range(20)]
    for one in dispatchers.alive.values():
        one.rejoin(dispatchers.now)
    dispatchers.run(LISTENING)
    asked: dict[str, list[bool | None]] = {limit.key: [] for limit in limits}

    def ask() -> None:
        for one in dispatchers.alive.values():
            for limit in limits:
                said = asked[limit.key]
                ask_permit(
                    one,
                    limit,
                    lambda passes, _, said=said: said.append(passes),  # type: ignore[misc]  # a default
                    dispatchers.now,
                )

    for number in range(100):
        dispatchers.after(number * 0.02, ask)
    dispatchers.run(5.0)
    assert all(said.count(True) == MOST for said in asked.values())
    assert all(len(said) == 300 for said in asked.values())
