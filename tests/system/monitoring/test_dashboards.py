"""Every panel shows something, and nothing that Prometheus refuses, after a load of all kinds."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from paths import ROOT
from waiting import wait_until
from watched_world import PATIENCE, Watched, steadily

FILES = sorted((ROOT / "infra" / "grafana" / "dashboards").glob("*.json"))
BOARDS = {file.stem: json.loads(file.read_text()) for file in FILES}
CAPABILITY = "test.flaky"
WINDOW = "1m"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
async def loaded(watched: Watched) -> AsyncIterator[Watched]:
    """A canary that is tried again, a limit, a breaker that opens, a death, too much to hold."""
    world = watched.world
    canary = {"variants": [{"variant": "canary", "weight": 1}, {"weight": 1}]}
    limits = {"reject": "work.echo", "shape": "work.wait"}
    async with contextlib.AsyncExitStack() as stack:
        for over, capability in limits.items():
            spec = {"limit": 1, "period": 2, "over": over}
            match = {"capability": capability}
            await stack.enter_async_context(world.policy("rate_limit", over, spec, match=match))
        match = {"capability": CAPABILITY}
        await stack.enter_async_context(world.policy("route", "canary", canary, match=match))
        match = {"capability": "work.fragile"}
        breaker = world.policy("circuit_breaker", "load", {"consecutive": 2}, match=match)
        await stack.enter_async_context(breaker)
        for capability, payload in {CAPABILITY: 2, "work.echo": 1, "work.wait": 0}.items():
            await stack.enter_async_context(steadily(world, capability, payload, 0.1))
        world.broken.touch()
        await world.ends("work.fragile", range(4))
        world.broken.unlink()
        slow = [await world.client.submit("test.slow", 1.5) for _ in range(150)]
        # What it has comes again, and another hands it back to its lane.
        os.kill(world.cluster.of_service("agent")[0].child.pid, signal.SIGKILL)
        yield watched
        await asyncio.gather(*(handle.outcome(timeout=60) for handle in slow))


async def chosen(watched: Watched, board: dict[str, Any]) -> dict[str, str]:
    """Return a value for each variable of a dashboard, out of those that Grafana would offer."""
    wanted = {"environment": "dev", "capability": CAPABILITY}
    values = {"__rate_interval": WINDOW}
    for variable in board["templating"]["list"]:
        name = variable["name"]
        metric = with_values(variable["definition"], values)
        metric = metric.removeprefix("label_values(").removesuffix(f", {name})")

        async def offered(metric: str = metric, name: str = name) -> bool:
            return wanted[name] in await watched.prometheus.label_values(metric, name)

        await wait_until(offered, PATIENCE)
        values[name] = wanted[name]
    return values


def with_values(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"${name}", value)
    return text


@pytest.mark.parametrize("name", BOARDS)
async def test_every_panel_shows_something(loaded: Watched, name: str) -> None:
    board = BOARDS[name]
    values = await chosen(loaded, board)
    waiting = {
        (panel["title"], with_values(target["expr"], values))
        for panel in board["panels"]
        for target in panel.get("targets", ())
    }
    assert waiting

    async def all_have_shown_something() -> bool:
        for panel in list(waiting):
            if await loaded.prometheus.query(panel[1]):
                waiting.discard(panel)
        return not waiting

    with contextlib.suppress(AssertionError):
        await wait_until(all_have_shown_something, PATIENCE)
    assert not waiting
