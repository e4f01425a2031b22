"""Two agents with one id: the second one says who has it, unless that one is dead."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pytest

from maniple.errors import BrokerUnavailable, ConfigurationError, PublishRefused, RequestFailed
from maniple.timings import Heartbeats
from maniple_agent import identity
from maniple_agent.commands import Ending
from maniple_agent.identity import check_id
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import AgentDescription
from maniple_runtime.control.plane import ControlPlane

TIMES = Heartbeats(period=0.2, confirm=0.1)
OURS = AgentDescription(
    agent=AgentId("a1"),
    incarnation=Incarnation("1"),
    host="here",
    pid=os.getpid(),
    http="http://127.0.0.1:1",
    started_at=datetime.now(UTC),
    pids="boot 1",
)
NEVER = 1 << 80  # no process has such a pid
Told = dict[str, Any] | Exception


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "ASKED", 0.2)


class Plane:
    """Answers as a registry does that has heard the agent `age` seconds ago at first."""

    def __init__(
        self, told: Told, *, beats: bool, served: bool = True, numbered: bool = False
    ) -> None:
        self.told, self.beats, self.served, self.numbered = told, beats, served, numbered
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
        number = int(silent / TIMES.period) if self.beats else 0
        numbers = {"incarnation": "0", "sequence": number} if self.numbered else {}
        return {"heartbeat_age": age, **numbers, **self.told}


async def check(plane: Plane) -> None:
    await check_id(cast("ControlPlane", plane), OURS, TIMES, monotonic)


def holder(**changes: Any) -> dict[str, Any]:
    return {"state": "active", "host": "there", "pid": 17, "http": "http://there:1"} | changes


@pytest.mark.parametrize(
    "told",
    [
        holder(),
        holder(state="draining"),
        holder(host="here", pid=os.getppid(), pids=OURS.pids),
        # In another container, which has the name of the host:
        holder(host="here", pid=NEVER, pids="boot 2"),
        holder(host="here", pid=OURS.pid, http=OURS.http, pids="boot 2"),
        # or perhaps, as it does not say:
        holder(host="here", pid=NEVER),
        holder(host="here", pid=OURS.pid, http=OURS.http, pids=""),
        # On another machine, which was begun as a copy of ours:
        holder(host="there", pid=NEVER, pids=OURS.pids),
        holder(pid=None),
        {"state": "active", "host": "there", "pid": 17, "newer": {}},
    ],
)
@pytest.mark.parametrize("numbered", [True, False])
async def test_who_lives_keeps_its_id_and_is_named(told: dict[str, Any], *, numbered: bool) -> None:
    with pytest.raises(ConfigurationError, match="agent a1 runs already, on host") as caught:
        await check(Plane(told, beats=True, numbered=numbered))
    assert str(told["host"]) in str(caught.value)
    assert str(told["pid"] or "unknown") in str(caught.value)


@pytest.mark.parametrize("state", ["active", "unreachable", "draining"])
async def test_who_is_silent_loses_its_id(state: str) -> None:
    plane = Plane(holder(state=state), beats=False)
    await check(plane)
    assert plane.asked > 2


class Replicas(Plane):
    """Answers, in turn, as registries do of which each has heard another heartbeat last."""

    def __init__(self, *of_each: dict[str, Any], way: float = 0.0) -> None:
        super().__init__({}, beats=False)
        self.of_each, self.way = of_each, way

    async def request(self, *_: Any) -> dict[str, Any]:
        self.told = holder(**self.of_each[self.asked % len(self.of_each)])
        told = await super().request()
        told["heartbeat_age"] = max(0.0, told["heartbeat_age"] + told.pop("earlier", 0.0))
        if self.asked > 1:
            await asyncio.sleep(self.way)
        return told


@pytest.mark.parametrize(
    "of_each",
    [
        pytest.param(({"earlier": 2.0}, {}), id="one of them heard it late"),
        pytest.param(({"earlier": 2.0}, {"earlier": 1.0}, {}), id="each heard it later"),
        pytest.param(
            ({"incarnation": "0", "sequence": 7}, {"incarnation": "0", "sequence": 8}),
            id="one of them has not heard the last",
        ),
        pytest.param(
            tuple({"incarnation": "0", "sequence": number} for number in (7, 8, 9)),
            id="nor another the one before",
        ),
        pytest.param(
            ({"incarnation": "", "sequence": 0}, {"incarnation": "0", "sequence": 8}),
            id="one of them knows it from Consul",
        ),
        pytest.param(
            ({"incarnation": "0", "sequence": 8, "earlier": 2.0}, {"earlier": 1.0}, {}),
            id="some are older than the number",
        ),
    ],
)
async def test_who_is_dead_loses_its_id_whichever_registry_tells_of_it(
    of_each: tuple[dict[str, Any], ...],
) -> None:
    plane = Replicas(*of_each)
    await check(plane)
    assert plane.asked > 2


async def test_who_is_dead_loses_its_id_however_long_answers_are_under_way() -> None:
    plane = Replicas({}, way=TIMES.period)
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
        lambda pid: holder(host="here", pid=pid, pids=OURS.pids),
        lambda _: holder(host="here", pid=OURS.pid, pids=OURS.pids),
        lambda _: holder(host="here", pid=NEVER, pids=OURS.pids),
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


async def test_where_pids_say_nothing_who_lives_keeps_its_id() -> None:
    ours = OURS.model_copy(update={"pids": ""})
    plane = Plane(holder(host="here", pid=NEVER, pids=""), beats=True)
    with pytest.raises(ConfigurationError, match="agent a1 runs already"):
        await check_id(cast("ControlPlane", plane), ours, TIMES, monotonic)


def test_a_child_sees_our_pids_and_who_is_not_told_of_them_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    say = "from maniple_agent.identity import pids; print(pids())"
    told = subprocess.run([sys.executable, "-c", say], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == identity.pids()
    for name in ("BOOT", "NAMESPACE"):
        with monkeypatch.context() as other:
            other.setattr(identity, name, tmp_path / "none")
            assert identity.pids() == ""


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
    ending.check_identity()
    ending.give_id_up()
    with pytest.raises(ConfigurationError, match="another process has taken this agent's id"):
        ending.check_identity()
