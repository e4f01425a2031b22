"""Two agents with one id: the second one says who has it, unless that one is dead."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from maniple.control import AgentDescription, AgentId, Incarnation
from maniple.errors import BrokerUnavailable, ConfigurationError, PublishRefused, RequestFailed
from maniple.service.broker import ControlPlane
from maniple.timings import Heartbeats
from maniple_agent import identity
from maniple_agent.handlers import Ending
from maniple_agent.identity import check_id

TIMES = Heartbeats(period=0.2, confirm=0.1)
OURS = AgentDescription(
    agent=AgentId("a1"),
    incarnation=Incarnation("1"),
    host="here",
    pid=os.getpid(),
    http="http://127.0.0.1:1",
    started_at=datetime.now(UTC),
)
Told = dict[str, Any] | Exception


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "ASKED", 0.2)


class Plane:
    """Answers as a registry does that has heard the agent `age` seconds ago at first."""

    def __init__(self, told: Told, *, beats: bool, served: bool = True) -> None:
        self.told, self.beats, self.served = told, beats, served
        self.asked = 0
        self.began = asyncio.get_running_loop().time()

    async def is_served(self, _queue: str, _timeout: float) -> bool:
        return self.served

    async def request(self, *_: Any) -> dict[str, Any]:
        self.asked += 1
        if isinstance(self.told, Exception):
            raise self.told
        silent = asyncio.get_running_loop().time() - self.began
        age = silent % TIMES.period if self.beats else silent
        return {"heartbeat_age": age, **self.told}


async def check(plane: Plane) -> None:
    await check_id(cast("ControlPlane", plane), OURS, TIMES)


def holder(**changes: Any) -> dict[str, Any]:
    return {"state": "active", "host": "there", "pid": 17, "http": "http://there:1"} | changes


@pytest.mark.parametrize(
    "told",
    [
        holder(),
        holder(state="draining"),
        holder(host="here", pid=os.getppid()),
        holder(host="here", pid=os.getpid()),  # the first process of another container
        holder(pid=None),
        {"state": "active", "host": "there", "pid": 17, "newer": {}},
    ],
)
async def test_who_lives_keeps_its_id_and_is_named(told: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="agent a1 runs already, on host") as caught:
        await check(Plane(told, beats=True))
    assert str(told["host"]) in str(caught.value)
    assert str(told["pid"] or "unknown") in str(caught.value)


@pytest.mark.parametrize("state", ["active", "unreachable", "draining"])
async def test_who_is_silent_loses_its_id(state: str) -> None:
    plane = Plane(holder(state=state), beats=False)
    await check(plane)
    assert plane.asked > 2


@pytest.fixture
def dead() -> int:
    """Return the pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


Make = Callable[[int], Told]


@pytest.mark.parametrize(
    "make",
    [
        lambda _: holder(state="left"),
        lambda _: holder(state="failed"),
        lambda _: holder(state="of a later release"),
        lambda pid: holder(host="here", pid=pid),
        lambda _: holder(host="here", pid=OURS.pid, http=OURS.http),
        lambda _: holder(host="here", pid=1 << 80),
        lambda _: holder(heartbeat_age="long ago"),
        lambda _: {},
        lambda _: RequestFailed("unknown_agent", "a1"),
        lambda _: BrokerUnavailable("no answer"),
        lambda _: PublishRefused("maniple.requests", "registry", unroutable=True),
    ],
)
async def test_where_nobody_has_it_the_agent_starts_at_once(make: Make, dead: int) -> None:
    plane = Plane(make(dead), beats=True)
    await check(plane)
    assert plane.asked == 1


async def test_without_a_registry_nobody_is_asked() -> None:
    plane = Plane(holder(), beats=True, served=False)
    await check(plane)
    assert plane.asked == 0


async def test_who_leaves_meanwhile_is_waited_for() -> None:
    plane = Plane(holder(state="draining"), beats=False)
    checking = asyncio.create_task(check(plane))
    await asyncio.sleep(0)
    plane.told = holder(state="left")
    await checking
    assert plane.asked == 2


def test_who_left_because_another_has_its_id_ends_with_that() -> None:
    ending = Ending(lambda: None, 1.0)
    ending.check()
    ending.taken = True
    with pytest.raises(ConfigurationError, match="another process has taken this agent's id"):
        ending.check()
