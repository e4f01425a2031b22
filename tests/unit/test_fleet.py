"""Limits that hold for all dispatchers together, in simulated time."""

from functools import partial

import pytest

from fleet_simulation import Simulation
from maniple_dispatcher.domain.buckets import Terms
from maniple_dispatcher.domain.permits import Limit

THOUSAND = Limit("rate_limit/thousand", Terms(rate=1000.0, capacity=1000.0))
ONE_A_MINUTE = Limit("rate_limit/minute", Terms(rate=1 / 60, capacity=1.0))


def names(simulation: Simulation) -> list[str]:
    return sorted(simulation.alive)


@pytest.mark.parametrize("dispatchers", [1, 2, 4])
@pytest.mark.parametrize("tasks", [1, 100], ids=["alone", "in arrays"])
def test_a_limit_of_a_thousand_passes_a_thousand(dispatchers: int, tasks: int) -> None:
    simulation = Simulation(dispatchers)
    begun = simulation.now
    simulation.load(names(simulation), THOUSAND, rate=4000 / dispatchers, tasks=tasks, seconds=12)
    settled = [simulation.passed[second] for second in range(int(begun) + 2, int(begun) + 11)]
    assert sum(settled) / len(settled) == pytest.approx(1000, rel=0.03)


@pytest.mark.parametrize("dispatchers", [2, 4])
def test_it_does_so_when_one_dispatcher_gets_nearly_everything(dispatchers: int) -> None:
    simulation = Simulation(dispatchers)
    first, *others = names(simulation)
    begun = simulation.now
    for name in others:
        simulation.after(0.0, partial(simulation.submit, name, THOUSAND))
    simulation.load([first], THOUSAND, rate=3000, seconds=12)
    settled = [simulation.passed[second] for second in range(int(begun) + 2, int(begun) + 11)]
    assert sum(settled) / len(settled) == pytest.approx(1000, rel=0.03)


def test_what_is_under_the_limit_passes_whole() -> None:
    simulation = Simulation(3)
    simulation.load(names(simulation), THOUSAND, rate=300, seconds=5)
    simulation.run(1)
    assert (sum(simulation.passed.values()), simulation.refused) == (4500, [])


def test_one_a_minute_passes_one_a_minute_also_when_its_owner_dies() -> None:
    simulation = Simulation(3)
    for _ in range(4):
        simulation.load(names(simulation), ONE_A_MINUTE, rate=2, seconds=30)
        simulation.kill(simulation.owner(ONE_A_MINUTE.key))
        simulation.load(names(simulation), ONE_A_MINUTE, rate=2, seconds=10)
        simulation.start(f"next-{simulation.now}")
        simulation.load(names(simulation), ONE_A_MINUTE, rate=2, seconds=20)
    # Four minutes: the token that was there, and one each minute.
    assert sum(simulation.passed.values()) in (4, 5)


def test_a_thousand_go_on_when_their_owner_dies() -> None:
    simulation = Simulation(4)
    simulation.load(names(simulation), THOUSAND, rate=1000, seconds=6)
    simulation.kill(simulation.owner(THOUSAND.key))
    begun = int(simulation.now)
    simulation.load(names(simulation), THOUSAND, rate=1000, seconds=8)
    seconds = [simulation.passed[second] for second in range(begun, begun + 7)]
    assert min(seconds) > 500
    assert sum(seconds) / 7 == pytest.approx(1000, rel=0.03)  # what was missing comes afterwards
    assert max(seconds) < 1500
    assert sum(seconds[3:]) / 4 == pytest.approx(1000, rel=0.03)


def test_a_new_dispatcher_learns_what_is_left_before_it_decides() -> None:
    simulation = Simulation(1)
    hundred_an_hour = Limit("rate_limit/hour", Terms(rate=100 / 3600, capacity=100.0))
    simulation.submit("dispatcher-0", hundred_an_hour, 100)
    for number in range(6):
        simulation.start(f"more-{number}")
    simulation.run(2)
    simulation.load(names(simulation), hundred_an_hour, rate=10, seconds=10)
    assert sum(simulation.passed.values()) == 100
