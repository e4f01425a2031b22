"""Slow limits and open breakers while all dispatchers die again and again, in virtual time."""

from functools import partial

import pytest

from maniple.timings import Peers
from maniple_dispatcher.limits.breaker import BreakerState
from maniple_dispatcher.limits.snapshot import LOOK, STOPPING
from maniple_policies import Resolved
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from maniple_runtime.consul.catalog import CatalogEntry
from maniple_runtime.control.messages import LaneEnds
from simulated_dispatchers import LANE, Dispatcher, Dispatchers, policy
from virtual_time import World, seeds

FIVE = 5
FIVE_AN_HOUR = Resolved.from_policies(policy("rate_limit", {"limit": FIVE, "period": 3600}))
FAST = Resolved.from_policies(policy("rate_limit", {"limit": 1000}))
BREAKS = CircuitBreakerSpec(consecutive=3, open_for=600.0)
WRITTEN = 1.5  # seconds after which what was decided is in Consul
READY = 3.0
TOLD_AGAIN = LOOK + 2.0  # seconds after which a Consul that has lost it has it again


class Lives:
    """The lives of some dispatchers, whose instances are called the same each time."""

    def __init__(self, fleet: Dispatchers) -> None:
        self.fleet = fleet
        self.of: dict[str, Dispatcher] = {}

    def begin(self, instance: str) -> Dispatcher:
        """Begin another life."""
        name = f"{instance}.{len(self.fleet.all)}"
        self.of[instance] = self.fleet.start(name, instance)
        return self.of[instance]

    def end(self, instance: str) -> None:
        """Kill it, if it lives."""
        if (one := self.of.pop(instance, None)) is not None:
            self.fleet.broker.kill(one.process)

    def stop(self, instance: str) -> None:
        """Report what it knows, and end."""
        one = self.of[instance]
        one.process.step(lambda: one.process.create_task(one.memory.write_now()))

    def drain(self, world: World, until: float = WRITTEN) -> None:
        """Use up a limit of five an hour, and report three failed attempts."""
        for one in self.of.values():
            one.admit(FIVE_AN_HOUR, 20)
        self.fleet.report(LaneEnds(failed=3, failing=3))
        world.run(until)
        assert len(self.fleet.became.sent) == FIVE

    def die(self, world: World) -> None:
        """Kill all dispatchers, and start as many."""
        instances = tuple(self.of)
        for instance in instances:
            self.end(instance)
        for instance in instances:
            self.begin(instance)
        world.run(READY)

    def check(self, world: World) -> None:
        """Nothing more passes, and the lane stays shut."""
        for one in self.of.values():
            one.admit(FIVE_AN_HOUR, 3)
        world.run(0.5)
        assert len(self.fleet.became.sent) == FIVE
        for one in self.of.values():
            assert one.coordinator.owned.breaker(LANE)[0] is BreakerState.OPEN, one.name


@pytest.mark.parametrize("lived", [0.2, 0.8, READY])
def test_what_is_known_of_slow_limits_and_breakers_outlives_any_number_of_deaths(
    lived: float,
) -> None:
    with World(0) as world, Dispatchers(world, lambda _: BREAKS) as fleet:
        lives = Lives(fleet)
        lives.begin("d0")
        world.run(READY)
        lives.drain(world)
        for _ in range(3):
            lives.end("d0")
            lives.begin("d0")
            world.run(lived)
        lives.end("d0")
        lives.begin("d0")
        world.run(READY)
        lives.check(world)


@pytest.mark.parametrize("chunk", seeds(40), ids=str)
def test_so_it_does_whoever_dies_in_whatever_order_and_while_consul_comes_and_goes(
    chunk: range,
) -> None:
    for seed in chunk:
        with World(seed) as world, Dispatchers(world, lambda _: BREAKS) as fleet:
            lives = Lives(fleet)
            for instance in ("d0", "d1"):
                lives.begin(instance)
            world.run(READY)
            lives.drain(world)
            for _ in range(6):
                for instance in world.random.sample(("d0", "d1", "d2"), 2):
                    if world.random.random() < 0.6:
                        lives.end(instance)
                    elif instance not in lives.of:
                        lives.begin(instance)
                if world.random.random() < 0.3:
                    fleet.consul.away_until = world.now + world.between(0.0, 2.0)
                world.run(world.between(0.1, 4.0))
            lives.of.get("d0") or lives.begin("d0")
            world.run(READY)
            lives.check(world)


def test_who_cannot_read_consul_at_its_start_overwrites_nothing_and_learns_of_it_later() -> None:
    with World(0) as world, Dispatchers(world, lambda _: BREAKS) as fleet:
        lives = Lives(fleet)
        lives.begin("d0")
        world.run(READY)
        lives.drain(world)
        lives.end("d0")
        fleet.consul.away_until = world.now + 20.0
        lives.begin("d0").admit(FIVE_AN_HOUR, 3)
        world.run(15.0)
        passed = len(fleet.became.sent)  # it takes a limit of which it knows nothing for full
        world.run(20.0)
        for one in lives.of.values():
            one.admit(FIVE_AN_HOUR, 3)
            assert one.coordinator.owned.breaker(LANE)[0] is BreakerState.OPEN
        world.run(0.5)
        assert len(fleet.became.sent) == passed


@pytest.mark.parametrize("after", [0.3, 5.0])
def test_who_reads_consul_before_its_first_policies_forgets_no_breaker(after: float) -> None:
    specs = {LANE: BREAKS}
    with World(0) as world, Dispatchers(world, specs.get) as fleet:
        lives = Lives(fleet)
        lives.begin("d0")
        world.run(READY)
        lives.drain(world)
        lives.end("d0")
        specs.clear()
        fleet.policies_known = False
        for instance in ("d0", "d1"):
            lives.begin(instance)
        world.run(after)
        specs[LANE] = BREAKS
        fleet.policies_known = True
        world.run(READY)
        lives.check(world)


@pytest.mark.parametrize("instances", [("d0",), ("d0", "d1", "d2")])
@pytest.mark.parametrize("became", ["empty", "old"])
def test_a_consul_that_comes_back_without_it_is_told_again(
    became: str, instances: tuple[str, ...]
) -> None:
    with World(0) as world, Dispatchers(world, lambda _: BREAKS) as fleet:
        lives = Lives(fleet)
        for instance in instances:
            lives.begin(instance)
        world.run(READY)
        before = dict(fleet.consul.keys)
        lives.drain(world)
        for _ in range(2):
            lives.die(world)
            fleet.consul.keys = dict(before) if became == "old" else {}
            world.run(TOLD_AGAIN)
        lives.die(world)
        lives.check(world)


@pytest.mark.parametrize("dispatchers", [1, 3])
def test_nothing_is_written_while_there_is_no_news_though_tasks_are_refused(
    dispatchers: int,
) -> None:
    with World(0) as world, Dispatchers(world, lambda _: BREAKS) as fleet:
        lives = Lives(fleet)
        for number in range(dispatchers):
            lives.begin(f"d{number}")
        world.run(READY)
        lives.drain(world)
        world.run(TOLD_AGAIN)
        written = fleet.consul.index
        for _ in range(20):
            for one in lives.of.values():
                one.admit(FIVE_AN_HOUR, 3)
            world.run(3.7)
        assert fleet.consul.index == written
        assert len(fleet.became.sent) == FIVE


def test_a_limit_that_is_full_again_in_a_moment_costs_consul_nothing() -> None:
    with World(0) as world, Dispatchers(world) as fleet:
        one = fleet.start("d0")
        world.run(READY)
        read, kv_get = list[float](), one.consul.kv_get

        async def counting(key: str) -> CatalogEntry | None:
            read.append(world.now)
            return await kv_get(key)

        world.patch.setattr(one.consul, "kv_get", counting)
        for _ in range(100):
            one.admit(FAST, 10)
            world.run(0.3)
        assert len(read) <= 30.0 / LOOK + 1
        assert not fleet.consul.keys


@pytest.mark.parametrize("seed", range(5))
def test_who_stops_has_written_down_what_it_decided_last(seed: int) -> None:
    with World(seed) as world, Dispatchers(world, lambda _: BREAKS) as fleet:
        lives = Lives(fleet)
        lives.begin("d0")
        world.run(READY + world.random.random())
        lives.drain(world, until=0.1)
        lives.stop("d0")
        world.run(0.1)
        lives.die(world)
        lives.check(world)


def test_a_stop_ends_though_consul_is_away() -> None:
    with World(0) as world, Dispatchers(world, lambda _: BREAKS) as fleet:
        lives = Lives(fleet)
        one = lives.begin("d0")
        world.run(READY)
        fleet.consul.away_until = world.now + 60.0
        lives.drain(world, until=0.1)
        ended: list[float] = []

        async def stop() -> None:
            await one.memory.write_now()
            ended.append(world.now)

        one.process.step(lambda: one.process.create_task(stop()))
        world.run(STOPPING + 0.5)
        assert ended


def test_who_is_long_in_reaching_the_broker_owns_nothing_before_it_has_listened() -> None:
    with World(0) as world, Dispatchers(world) as fleet:
        lives = Lives(fleet)
        lives.begin("d0")
        world.run(READY)
        fleet.broker.stall(5.0)
        late = lives.begin("d1")
        reached: list[float] = []
        owned: list[float] = []

        def look() -> None:
            if late.hot.up:
                reached.append(world.now)
            if late.coordinator.peers.is_counted(late.name):
                owned.append(world.now)

        world.every(0.01, look)
        world.run(5.0 + READY * 2)
        assert owned[0] >= reached[0] + Peers().listens


def test_a_deaf_dispatcher_owns_nothing_however_long_it_has_been_there() -> None:
    with World(0) as world, Dispatchers(world) as fleet:
        lives = Lives(fleet)
        fleet.broker.stall(0.5)
        deaf = lives.begin("d0")
        deaf.hot.intake.bindings.clear()  # its queue is bound to nothing
        lives.begin("d1")
        for _ in range(100):
            world.run(0.1)
            assert all(not one.coordinator.peers.is_counted(deaf.name) for one in fleet.alive)
        world.after(0.0, partial(lives.end, "d1"))
        world.run(5.0)
        assert not deaf.coordinator.peers.is_counted(deaf.name)
