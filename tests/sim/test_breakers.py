"""A circuit breaker that dispatchers share while its owner changes, in virtual time."""

from collections import Counter, defaultdict
from functools import partial

import pytest

from maniple_dispatcher.limits.lease_owner import BREAKER
from maniple_policies import Resolved
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from maniple_runtime.control.messages import LaneEnds
from simulated_dispatchers import LANE, Dispatcher, Dispatchers, policy
from virtual_time import World, seeds

PROBES = 2
POLICY = policy("circuit_breaker", {"consecutive": 3, "open_for": 2.0, "probes": PROBES})
BROKEN = Resolved.from_policies(POLICY)
FOLLOWS = {
    "closed": {"open"},
    "open": {"half_open"},
    "half_open": {"open", "closed"},
}
KEY = BREAKER + LANE
SOON = 0.15  # seconds: requests gather, and two messages travel


Known = tuple[int, str]
NEVER: Known = (0, "closed")


def known(one: Dispatcher) -> Known:
    """Return the epoch and the state that a dispatcher takes the breaker for."""
    found = {lane: (b.epoch, b.state.value) for lane, b in one.coordinator.owned.breakers()}
    return found.get(LANE, NEVER)


class Seen:
    """What each dispatcher took the breaker for, in order; what it sent meanwhile; who owned it."""

    def __init__(self, world: World, dispatchers: Dispatchers) -> None:
        self.world, self.dispatchers = world, dispatchers
        self.by: defaultdict[str, list[Known]] = defaultdict(list)
        self.states: dict[int, set[str]] = defaultdict(set)
        self.made_from: dict[int, str] = {}
        """The state from which an epoch began, as whoever had it first knew it."""
        self.changed_at: dict[int, float] = {}
        self.sent: Counter[Known] = Counter()
        self.owners: defaultdict[int, set[str]] = defaultdict(set)
        self.mended_at = 0.0
        self.late = 0.0
        """Seconds after which the last has learned of a change, at most."""
        dispatchers.became.watch = self._sent
        world.every(0.005, self._look)

    def _look(self) -> None:
        for one in self.dispatchers.alive:
            now = known(one)
            if self.by[one.name][-1:] != [now]:
                if now[0] not in self.states and self.by[one.name]:
                    self.made_from[now[0]] = self.by[one.name][-1][1]
                self.by[one.name].append(now)
                self.states[now[0]].add(now[1])
                changed_at = self.changed_at.setdefault(now[0], self.world.now)
                self.late = max(self.late, self.world.now - changed_at)
            if one.coordinator.peers.owns(KEY):
                self.owners[now[0]].add(one.name)

    def _sent(self, one: Dispatcher) -> None:
        self.sent[known(one)] += 1

    def check(self) -> None:
        """Every epoch has one state, follows the table, and lets through what that allows."""
        for name, states in self.by.items():
            assert [e for e, _ in states] == sorted(e for e, _ in states), f"{name} went back"
        assert all(len(states) == 1 for states in self.states.values()), self.states
        # By what its maker knew: there are two for a moment when one takes over from the other.
        steps = {(before, min(self.states[epoch])) for epoch, before in self.made_from.items()}
        assert all(after in FOLLOWS[before] for before, after in steps), steps
        closed = [epoch for epoch in self.states if epoch and "closed" in self.states[epoch]]
        assert all(self.changed_at[epoch] >= self.mended_at for epoch in closed), "it was broken"
        for (epoch, state), number in self.sent.items():
            assert state != "open", "one that knew better has sent"
            if state == "half_open":
                assert number <= PROBES * max(1, len(self.owners[epoch])), self.owners[epoch]


def come(world: World, dispatchers: Dispatchers) -> None:
    for one in dispatchers.alive:
        if dispatchers.broker.reaches(one.process) and one.undecided < 20:
            one.admit(BROKEN, world.random.randint(1, 3))


class Lane:
    """Attempts that end some time after they were let through, badly while it is broken."""

    def __init__(self, world: World, dispatchers: Dispatchers) -> None:
        self.world, self.dispatchers = world, dispatchers
        self.broken = False
        self._seen = 0
        world.every(0.05, self._look)

    def _look(self) -> None:
        new = len(self.dispatchers.became.sent) - self._seen
        self._seen += new
        if new:
            ends = LaneEnds(failed=new, failing=new) if self.broken else LaneEnds(succeeded=new)
            self.world.after(self.world.between(0.05, 0.5), lambda: self.dispatchers.report(ends))


def trouble(world: World, dispatchers: Dispatchers) -> None:
    """Do something to the owner."""
    owner = dispatchers.owner(KEY)
    what = world.random.choice(["kill", "freeze", "slow", "join", "stall"])
    seconds = world.between(0.2, 4.0)
    if what == "kill" and len(dispatchers.alive) > 2:
        dispatchers.broker.kill(owner.process)
    elif what == "freeze":
        owner.process.freeze(seconds)
    elif what == "slow":
        owner.process.slow(seconds, 0.2)
    elif what == "stall":
        dispatchers.broker.stall(min(seconds, 1.5))
    else:
        dispatchers.start(f"d{len(dispatchers.all)}")


def story(world: World, dispatchers: Dispatchers, *, troubles: int) -> Seen:
    """Break a lane and mend it while the owner of its breaker has trouble."""
    for number in range(3):
        dispatchers.start(f"d{number}")
    world.run(3.0)
    seen, lane = Seen(world, dispatchers), Lane(world, dispatchers)
    world.every(0.1, lambda: come(world, dispatchers))
    world.run(1.0)
    lane.broken = True
    for _ in range(troubles):
        world.after(world.between(0.0, 8.0), partial(trouble, world, dispatchers))
    world.run(world.between(4.0, 9.0))
    lane.broken, seen.mended_at = False, world.now
    world.run(10.0)
    return seen


def spec_of(_lane: str) -> CircuitBreakerSpec:
    spec: CircuitBreakerSpec = POLICY.spec
    return spec


@pytest.mark.parametrize("chunk", seeds(40), ids=str)
def test_all_agree_on_one_breaker_whose_probes_are_few_whatever_becomes_of_its_owner(
    chunk: range,
) -> None:
    for seed in chunk:
        with World(seed) as world, Dispatchers(world, spec_of) as dispatchers:
            seen = story(world, dispatchers, troubles=2)
            seen.check()
            assert {known(one) for one in dispatchers.alive} == {known(dispatchers.alive[0])}
            assert len(seen.states) > 3, "it has neither opened nor closed"
            assert known(dispatchers.alive[0])[1] == "closed"


@pytest.mark.parametrize("chunk", seeds(12), ids=str)
def test_while_all_is_well_a_change_reaches_all_at_once(chunk: range) -> None:
    for seed in chunk:
        with World(seed) as world, Dispatchers(world, spec_of) as dispatchers:
            seen = story(world, dispatchers, troubles=0)
            seen.check()
            assert len(seen.changed_at) > 3
            assert seen.late <= SOON
