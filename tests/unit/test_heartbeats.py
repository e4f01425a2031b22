"""What an agent says after it stood still, and what it does when it is told to retire."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from maniple.clock import Clock
from maniple.errors import BrokerUnavailable
from maniple.timings import Heartbeats as HeartbeatTimes
from maniple.timings import Timings
from maniple_agent.commands import AgentCommands, Ending
from maniple_agent.heartbeat import Heartbeats, Self
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import AgentDescription, Heartbeat, Retire
from maniple_runtime.health import Health
from maniple_runtime.telemetry import Metrics
from waiting import wait_until
from work_with_fakes import NOW, Delivery, envelope
from work_with_fakes import Agent as FakeAgent


class Plane:
    """Keeps heartbeats; confirms them while `up`, and not before `answers` is set."""

    def __init__(self) -> None:
        self.sent: list[Heartbeat] = []
        self.up = True
        self.answers = asyncio.Event()
        self.answers.set()
        self.patience: set[float] = set()
        self.meanwhile: Callable[[], None] = lambda: None

    async def heartbeat(self, heartbeat: Heartbeat, timeout: float) -> None:
        self.patience.add(timeout)
        self.sent.append(heartbeat)
        await self.answers.wait()
        self.meanwhile()
        if not self.up:
            raise BrokerUnavailable("away")


class Agent:
    """Heartbeats over a fake plane, at times that a test decides."""

    def __init__(self, timings: Timings | None = None) -> None:
        self.plane, self.seconds, self.left = Plane(), 100.0, 0
        self.confirmed: list[float] = []
        self.fake = FakeAgent(capacity=3)
        clock = Clock(now=lambda: NOW, monotonic=lambda: self.seconds)
        fields = {"agent": "a1", "incarnation": "1", "host": "h", "pid": 1, "started_at": NOW}
        self_ = Self(AgentDescription.model_validate(fields), 1, lambda: (), lambda: (), lambda: ())
        plane: Any = self.plane
        self.heartbeats = Heartbeats(
            plane,
            self_,
            self.fake.work,
            confirmed=self.confirmed.append,
            health=Health("agent", "a1"),
            metrics=Metrics(),
            clock=clock,
            timings=timings,
        )
        ending = Ending(self._stop, 30.0)
        self.handlers = AgentCommands(
            self.heartbeats,
            ending,
            lambda: None,
            self.renew,
            lambda: "2",
            clock.monotonic,
        )
        self.renewed: list[str] = []

    def renew(self, places: Iterable[str]) -> None:
        self.renewed += places

    def _stop(self) -> None:
        self.left += 1

    async def after(self, seconds: float) -> bool:
        """Send one so much later; return whether it says that this life stood still."""
        self.seconds += seconds
        await self.heartbeats.send_heartbeat()
        return self.plane.sent[-1].overdue


async def test_who_stood_still_says_so_for_the_rest_of_its_life() -> None:
    agent = Agent()
    assert [await agent.after(s) for s in (30, 3, 9, 9.1, 3)] == [False, False, False, True, True]
    agent.handlers.retire(Retire(incarnation=Incarnation("1")))
    assert not await agent.after(0)
    assert (agent.heartbeats.incarnation, agent.left) == ("2", 0)


async def test_who_is_only_not_confirmed_has_not_stood_still() -> None:
    agent = Agent()
    agent.plane.up = False
    assert not any([await agent.after(3) for _ in range(6)])


async def test_who_is_replaced_leaves_unless_it_lives_anew() -> None:
    agent = Agent()
    agent.handlers.retire(Retire(incarnation=Incarnation("0"), replaced=True))
    assert agent.left == 0
    with structlog.testing.capture_logs() as lines:
        agent.handlers.retire(Retire(incarnation=Incarnation("1"), replaced=True))
    assert (agent.left, agent.heartbeats.incarnation) == (1, "1")
    assert [line["log_level"] for line in lines] == ["error"]


async def test_what_is_confirmed_is_the_time_of_sending() -> None:
    agent = Agent()

    def a_second_later() -> None:
        agent.seconds += 1

    agent.plane.meanwhile = a_second_later
    await agent.after(3)
    assert (agent.seconds, agent.confirmed) == (104.0, [103.0])


async def test_what_the_broker_did_not_take_confirms_nothing() -> None:
    agent = Agent()
    agent.plane.up = False
    await agent.after(3)
    assert agent.confirmed == []


async def test_a_late_confirm_counts_and_the_next_heartbeat_does_not_wait_for_it() -> None:
    agent = Agent(Timings(heartbeats=HeartbeatTimes(confirm=0.02)))
    agent.plane.answers.clear()
    await agent.after(3)
    await agent.after(3)
    assert ([beat.sequence for beat in agent.plane.sent], agent.confirmed) == ([1, 2], [])
    agent.plane.answers.set()
    await wait_until(lambda: agent.confirmed == [103.0, 106.0], 1)
    assert agent.plane.patience == {Timings().fencing.fenced}


async def test_a_description_is_sent_until_it_is_confirmed_and_then_on_demand() -> None:
    agent = Agent()
    agent.plane.up = False
    await agent.after(3)
    agent.plane.up = True
    for _ in range(3):
        await agent.after(3)
    agent.heartbeats.announce()
    for _ in range(2):
        await agent.after(3)
    full = [beat.description is not None for beat in agent.plane.sent]
    assert full == [True, True, False, False, True, False]


async def test_a_demand_that_comes_while_one_is_under_way_is_answered_by_the_next() -> None:
    agent = Agent()
    agent.plane.meanwhile = agent.heartbeats.announce
    await agent.after(3)
    await agent.after(3)
    assert [beat.description is not None for beat in agent.plane.sent] == [True, True]


async def test_nothing_is_sent_by_who_was_cancelled() -> None:
    agent = Agent()
    agent.plane.answers.clear()
    running = asyncio.create_task(agent.heartbeats.send_heartbeats())
    await wait_until(lambda: len(agent.plane.sent) == 1, 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    agent.plane.answers.set()
    await wait_until(lambda: not agent.heartbeats._sending, 1)
    assert agent.confirmed == []


async def test_slots_that_are_stuck_count_as_taken() -> None:
    agent = Agent()
    await agent.fake.take(Delivery(envelope("1")))
    agent.fake.executor.stuck = ["a.task"]
    await agent.after(3)
    assert agent.plane.sent[-1].in_flight == 2
