"""What a fence closes, opens, stops and builds anew, at times that a test decides."""

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from maniple.amqp import Consumer
from maniple.clock import Clock
from maniple_agent import fencing as module
from maniple_agent.domain.confirmation import Confirmation
from maniple_agent.fencing import Fence
from maniple_runtime.consul.registration import TtlHeartbeat
from maniple_runtime.health import Health
from maniple_runtime.hotpath import HotPath
from work_with_fakes import Agent as FakeAgent
from work_with_fakes import Delivery, envelope


class Hot:
    """A hot path that says what it was told."""

    def __init__(self, told: list[str]) -> None:
        self.told, self.blocked, self.up = told, False, True

    def stop_consuming(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")

    def reconnect(self) -> None:
        self.told.append("hot")


class Fenced:
    """A fence around an agent; its clock starts at 0, when a heartbeat was confirmed."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.now = 0.0
        self.confirmation = Confirmation(0.0)
        self.agent = FakeAgent(is_fenced=lambda: self.confirmation.fenced(self.now))
        self.hot = Hot(self.told)
        self.plane = SimpleNamespace(
            blocked=False, connected=True, reconnect=lambda: self.told.append("control")
        )
        self.runtime = SimpleNamespace(
            health=Health("agent", "a1"),
            ttl_heartbeat=TtlHeartbeat(),
            spawn=self._spawn,
            clock=Clock(monotonic=lambda: self.now),
        )
        self.runtime.health.mark_started()
        self._spawned: set[asyncio.Task[None]] = set()
        runtime: Any = self.runtime
        hot: Any = self.hot
        plane: Any = self.plane
        self.fence = Fence(
            runtime,
            self.confirmation,
            self.agent.work,
            agent_publisher=self.agent.agent_publisher,
            hot=hot,
            plane=plane,
        )

    def _spawn(self, work: Coroutine[Any, Any, None], _name: str) -> None:
        self._spawned.add(asyncio.create_task(work))

    async def at(self, now: float) -> list[str]:
        """Look at this time; return what was done."""
        self.now = now
        self.told.clear()
        self.fence.enforce()
        await self.agent.settle()
        return list(self.told)


def exclusive(name: str) -> Any:
    return envelope(name, capability="an.exclusive", lane="an.exclusive")


async def test_a_fence_closes_once_and_opens_with_the_next_confirmed_heartbeat() -> None:
    fenced = Fenced()
    assert await fenced.at(6.0) == []
    assert await fenced.at(6.1) == ["pause"]
    assert (fenced.fence.fenced, fenced.runtime.health.ready) == (True, False)
    assert await fenced.at(6.3) == []
    await fenced.agent.take(Delivery(envelope("1")))
    assert fenced.agent.executor.ids == []
    fenced.fence.confirm(5.9)
    await fenced.agent.settle()
    assert fenced.told == ["resume"]
    assert (fenced.fence.fenced, fenced.runtime.health.ready) == (False, True)
    assert fenced.agent.executor.ids == ["1"]
    assert fenced.runtime.ttl_heartbeat.take_beat()


async def test_a_fence_that_opens_in_the_turn_in_which_it_closed_leaves_nothing_paused() -> None:
    fenced, consumer = Fenced(), Consumer("q", lambda _: None, prefetch=5)
    hot: Any = HotPath.__new__(HotPath)
    hot._keepers = {"q": SimpleNamespace(consumer=consumer)}
    hot.outlet = hot.intake = SimpleNamespace(blocked=False, is_up=False)
    fenced.fence._hot = hot
    fenced.now = 6.1
    fenced.fence.enforce()
    assert consumer._paused
    fenced.fence.confirm(6.0)
    await fenced.agent.settle()
    assert not consumer._paused


async def test_whether_the_broker_takes_what_is_published_does_not_depend_on_who_consumes() -> None:
    fenced, hot = Fenced(), HotPath.__new__(HotPath)
    links: Any = hot
    links.outlet, links.intake = (SimpleNamespace(blocked=False, is_up=up) for up in (True, False))
    fenced.fence._hot = hot
    said = [fenced.fence.publishes]
    links.outlet.blocked = True
    said.append(fenced.fence.publishes)
    links.outlet, links.intake = links.intake, links.outlet
    said.append(fenced.fence.publishes)
    assert said == [True, False, False]


async def test_a_fence_that_opens_while_the_agent_leaves_lets_nothing_in() -> None:
    fenced = Fenced()
    await fenced.at(7.0)
    fenced.agent.work.begin_draining()
    fenced.told.clear()
    fenced.fence.confirm(6.9)
    await fenced.agent.settle()
    assert fenced.told == []


async def test_what_is_exclusive_is_stopped_after_8_s_and_what_is_not_goes_on() -> None:
    fenced = Fenced()
    await fenced.agent.take(Delivery(exclusive("1"), envelope("2")))
    await fenced.at(8.0)
    assert fenced.agent.executor.cancelled == []
    await fenced.at(8.1)
    assert (fenced.agent.executor.cancelled, fenced.agent.executor.ids) == (["1"], ["2"])
    assert fenced.agent.moved() == []
    fenced.fence.confirm(8.0)
    await fenced.agent.settle()
    assert [key for key, _ in fenced.agent.moved()] == ["an.exclusive"]


async def test_everything_is_stopped_when_results_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 50)
    fenced = Fenced()
    await fenced.agent.take(Delivery(envelope("1"), envelope("2")))
    fenced.agent.publisher.up.clear()
    await fenced.agent.finish("1")
    await fenced.at(5.9)
    assert fenced.agent.executor.cancelled == []
    await fenced.at(6.1)
    assert fenced.agent.executor.cancelled == ["2"]
    fenced.agent.publisher.up.set()


async def test_connections_that_claim_to_stand_are_replaced_every_5_s() -> None:
    fenced = Fenced()
    moments = (6.1, 7.0, 7.2, 9.1, 12.0, 12.3, 14.2)
    seen = {now: sorted({*await fenced.at(now)} - {"pause"}) for now in moments}
    assert {now: replaced for now, replaced in seen.items() if replaced} == {
        7.2: ["control"],
        9.1: ["hot"],
        12.3: ["control"],
        14.2: ["hot"],
    }


async def test_a_heartbeat_goes_before_connections_are_replaced_when_the_agent_stood_still() -> (
    None
):
    fenced = Fenced()
    assert await fenced.at(8.9) == ["pause"]
    fenced.fence.confirm(8.9)
    await fenced.agent.settle()
    assert fenced.told == ["pause", "resume"]


@pytest.mark.parametrize("who", ["hot", "plane"])
async def test_connections_that_an_alarm_holds_back_are_left_alone(who: str) -> None:
    fenced = Fenced()
    getattr(fenced, who).blocked = True
    assert [await fenced.at(now) for now in (6.1, 9.1, 20.0)] == [["pause"], [], []]


async def test_connections_that_are_known_to_be_down_are_left_to_their_owners() -> None:
    fenced = Fenced()
    fenced.plane.connected = fenced.hot.up = False
    assert [await fenced.at(now) for now in (6.1, 9.1, 20.0)] == [["pause"], [], []]
