"""Whose clock a registry takes for wrong, and what it tells."""

import json
import socket
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from machines import Slept
from maniple.clock import SYSTEM_CLOCK, Clock
from maniple.errors import BrokerUnavailable
from maniple.timings import Clocks, Timings
from maniple_registry.actions import ActionRunner
from maniple_registry.clock_watch import COMPONENT, ClockWatch
from maniple_registry.domain.agent_record import Instant
from maniple_registry.domain.agents import Agents
from maniple_registry.domain.clock_skew import (
    DAY,
    HOUR,
    LONGEST_STEP,
    LOOKS,
    SET_BACK,
    SLEW,
    Leading,
    by_host,
    correction,
    slewed,
)
from maniple_registry.handlers import RegistryHandlers
from maniple_registry.hearing_clock import HearingClock
from maniple_runtime.control.messages import AgentDescription, Command, Request, Time
from maniple_runtime.control.routing_keys import ALL_AGENTS
from maniple_runtime.health import Health
from maniple_runtime.telemetry import Metrics
from registry_values import NOW, beat

AGREE = Clocks().agree


class Passing:
    """A clock that is moved by hand, and that somebody may set."""

    def __init__(self) -> None:
        self.seconds, self.stepped = 0.0, 0.0
        self.clock = Clock(now=self.now, steady=lambda: self.seconds)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds + self.stepped)


class Registry:
    """A fleet that hears agents, and what is told and shown of their clocks."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.fleet, self.sequence, self.told, self.up = Agents(), 0, [], True
        self.health, self.tells = Health("registry", "r1"), True
        log = structlog.get_logger()
        self.handlers = RegistryHandlers(
            self.fleet, HearingClock(clock), cast("ActionRunner", None), Metrics(), log
        )
        settings = SimpleNamespace(instance="r1", timings=Timings())
        runtime: Any = SimpleNamespace(health=self.health, log=log, settings=settings, clock=clock)
        self.watch = ClockWatch(self.handlers, self, runtime, lambda: self.tells)

    told: list[tuple[str, Command]]
    others: dict[str, Any] | None = None

    async def request(
        self, service: str, op: str, body: None = None, timeout: float = 0.0
    ) -> dict[str, Any]:
        del service, op, body, timeout
        if self.others is None:
            raise BrokerUnavailable("nobody answers")
        return self.others

    def ahead(self) -> float:
        """Return how far what is told is ahead of our own clock."""
        self.watch.compare_clocks()
        return self.handlers.correction

    async def command(self, key: str, command: Command, timeout: float) -> bool:
        del timeout
        if not self.up:
            raise BrokerUnavailable("away")
        self.told.append((key, command))
        return True

    def hear(self, agent: str, ahead: float, *, host: str | None = None, late: float = 0.0) -> None:
        self.sequence += 1
        fields = {"agent": agent, "incarnation": "1", "pid": 1, "started_at": NOW}
        description = AgentDescription.model_validate(fields | {"host": host or agent})
        sent_at = NOW + timedelta(seconds=ahead - late)
        heartbeat = beat(self.sequence, agent=agent, sent_at=sent_at, description=description)
        self.fleet.record_heartbeat(heartbeat, Instant(self.sequence / 1e6, NOW))

    async def doubts(self) -> dict[str, list[str]]:
        self.watch.compare_clocks()
        told = json.loads(await self.handlers.agents(Request(op="agents", body={"after": ""})))
        return {one["id"]: one["doubts"] for one in told["agents"] if one["doubts"]}

    def component(self) -> dict[str, Any]:
        self.watch.compare_clocks()
        found: dict[str, Any] = self.health.snapshot()["components"][COMPONENT]
        return found


@pytest.mark.parametrize(
    ("others", "ours"),
    [
        ([], 0),
        ([120.0], 0),
        ([-120.0], 0),
        ([120.0, 120.0], 120),
        ([-120.0, -119.0], -119),
        ([120.0, 0.5], 0),
        ([-500.0, 500.0], 0),
        ([120.0, 121.0, 0.0], 0),
        ([120.0, 121.0, 122.0, 0.0], 120),
        ([1.9, 1.9, 1.9], 0),
    ],
)
def test_our_clock_counts_unless_most_hosts_agree_on_another(
    others: list[float], ours: float
) -> None:
    assert correction(others, AGREE) == pytest.approx(ours)


def test_all_agents_of_a_host_have_one_clock_and_those_of_ours_have_ours() -> None:
    registry = Registry()
    for number in range(10):
        registry.hear(f"bad-{number}", 120.0, host="bad", late=number)
        registry.hear(f"here-{number}", 0.0, host="here")
    registry.hear("good", 0.0)
    assert sorted(by_host(registry.fleet, "here")) == [0.0, 120.0]


async def test_who_is_wrong_is_shown_as_such_until_it_is_right_again() -> None:
    registry = Registry()
    for name, ahead in (("fast", 120.0), ("slow", -60.0), ("good", 0.4)):
        registry.hear(name, ahead)
        registry.hear(name, ahead)
    assert await registry.doubts() == {
        "fast": ["its clock is 120 s ahead"],
        "slow": ["its clock is 60 s behind"],
    }
    component = registry.component()
    assert (component["ok"], component["required"]) == (False, False)
    assert component["detail"] == "fast's is 120 s ahead; slow's is 60 s behind"
    for name in ("fast", "slow"):
        registry.hear(name, 0.0)
        registry.hear(name, 0.0)
    assert await registry.doubts() == {}
    assert registry.component()["ok"]


async def test_one_heartbeat_that_was_long_on_its_way_makes_no_clock_wrong() -> None:
    registry = Registry()
    registry.hear("a", 0.0)
    registry.hear("a", 0.0, late=30.0)
    assert await registry.doubts() == {}
    registry.hear("a", 0.0)
    assert await registry.doubts() == {}


async def test_if_most_hosts_differ_it_is_our_clock_that_is_wrong_and_is_led_there_slowly() -> None:
    passed = Passing()
    registry = Registry(passed.clock)
    registry.watch.compare_clocks()
    for name in ("a", "b", "c"):
        registry.hear(name, 300.0)
    assert registry.ahead() == pytest.approx(0)
    assert registry.component()["detail"].startswith("ours is 300 s behind by most hosts")
    passed.seconds = 10.0
    assert registry.ahead() == pytest.approx(10 * 300 / HOUR, abs=1e-3)
    for _ in range(400):
        passed.seconds += LONGEST_STEP
        registry.watch.compare_clocks()
    assert registry.ahead() == pytest.approx(300)
    assert await registry.doubts() == {}


def test_a_registry_goes_on_from_what_another_told_when_it_leads_itself() -> None:
    passed = Passing()
    registry = Registry(passed.clock)
    registry.tells = False
    assert registry.ahead() == pytest.approx(0)
    registry.watch.record_clock(Time(at=passed.now() - timedelta(seconds=120), source="r2"))
    registry.watch.record_clock(Time(at=passed.now() + timedelta(hours=1), source="r1"))  # itself
    assert registry.ahead() == pytest.approx(-120)
    passed.seconds = 50.0
    assert registry.ahead() == pytest.approx(-120)
    registry.tells = True
    passed.seconds = 60.0
    assert registry.ahead() == pytest.approx(-120 + 10 * 120 / HOUR, abs=1e-3)
    assert "ours is 120 s ahead by the cluster's time" in registry.component()["detail"]


@pytest.mark.parametrize(
    ("ahead", "target", "elapsed", "then"),
    [(0.0, 9.0, 0.0, 0.0), (0.0, 9.0, 10.0, 0.1), (0.0, -9.0, 10.0, -0.1), (5.0, 5.05, 10, 5.05)],
)
def test_a_little_is_led_slowly(ahead: float, target: float, elapsed: float, then: float) -> None:
    assert slewed(ahead, target, elapsed) == pytest.approx(then)


@pytest.mark.parametrize(
    ("stepped", "within"),
    [(30.0, HOUR), (8 * HOUR, 14 * HOUR), (DAY, 30 * HOUR), (30 * DAY, 6 * DAY)],
)
def test_a_clock_that_was_set_forwards_is_followed_within_hours_and_without_a_jump(
    stepped: float, within: float
) -> None:
    passed = Passing()
    registry = Registry(passed.clock)
    assert registry.ahead() == pytest.approx(0)
    passed.stepped = stepped
    fastest = max(1.0, stepped / DAY)
    while (ahead := registry.ahead()) < -AGREE:
        passed.seconds += LONGEST_STEP
        gained = registry.ahead() - ahead
        assert SLEW * LONGEST_STEP * 0.999 <= gained <= fastest * LONGEST_STEP + 1e-3
        assert passed.seconds < within


@pytest.mark.parametrize("stepped", [-8 * HOUR, -30 * DAY])
def test_a_clock_that_was_set_back_is_followed_once_some_looks_in_turn_agree(
    stepped: float,
) -> None:
    passed = Passing()
    registry = Registry(passed.clock)
    registry.watch.compare_clocks()
    passed.stepped = stepped
    for _ in range(LOOKS - 1):
        passed.seconds += 1.0
        assert registry.ahead() > 0.9 * -stepped
    for _ in range(10):  # what somebody asks for meanwhile is no look
        assert registry.watch._now() > passed.now() + timedelta(hours=1)
    passed.stepped = 0.0
    registry.watch.compare_clocks()
    passed.stepped = stepped
    for _ in range(LOOKS):
        passed.seconds += 1.0
        registry.watch.compare_clocks()
    assert registry.ahead() == pytest.approx(0, abs=1e-3)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 100)), min_size=1, max_size=40))
def test_time_jumps_only_backwards_and_only_to_what_is_meant(
    looks: list[tuple[float, float]],
) -> None:
    leading, now = Leading(AGREE), 0.0
    leading.follow(0.0, now)
    for target, elapsed in looks:
        now += elapsed
        before = leading.ahead or 0.0
        leading.lead(target, now)
        after = leading.ahead or 0.0
        assert min(before, target) - 1e-6 <= after <= max(before, target) + 1e-6
        step = min(elapsed, LONGEST_STEP) * max(1.0, abs(target - before) / DAY)
        assert after - before <= step + 1e-6
        jumped = before - after > step + 1e-6
        assert not jumped or (after == target and before - target > SET_BACK * AGREE)


def test_a_registry_that_slept_tells_a_time_that_has_gone_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept = Slept(monkeypatch)
    registry = Registry()
    before = registry.watch._now()
    slept.seconds += 8 * HOUR
    assert (registry.watch._now() - before).total_seconds() >= 8 * HOUR


async def test_one_that_starts_asks_another_for_the_time_and_goes_on_without_one() -> None:
    registry = Registry()
    registry.others = {"at": "2026-11-22T12:00:00Z", "source": "r2"}
    await registry.watch._learn()
    told = await registry.watch.time(Request(op="time"))
    assert told["at"].startswith("2026-11-22T12:00:00")
    for answer in (None, {"at": "soon"}, {}):
        registry = Registry()
        registry.others = answer
        await registry.watch._learn()
        assert registry.ahead() == pytest.approx(0, abs=1)


async def test_the_time_is_told_to_all_and_a_broker_that_is_away_ends_nothing() -> None:
    registry = Registry()
    await registry.watch._tell()
    ((key, told),) = registry.told
    assert key == ALL_AGENTS
    assert isinstance(told, Time)
    assert told.source == "r1"
    registry.up = False
    await registry.watch._tell()
    assert len(registry.told) == 1


def test_agents_beside_us_say_nothing_about_our_clock() -> None:
    registry = Registry()
    for name in ("a", "b", "c"):
        registry.hear(name, 300.0, host=socket.gethostname())
    detail = "a's is 300 s ahead; b's is 300 s ahead; c's is 300 s ahead"
    assert registry.component()["detail"] == detail
