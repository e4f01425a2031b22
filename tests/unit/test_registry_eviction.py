"""`maniple_registry.eviction` and `.management`: whatever the broker says, the registry goes on."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

import pytest
import structlog

from maniple_registry.domain.agent_record import AgentRecord, AgentState, Instant
from maniple_registry.domain.agents import Agents
from maniple_registry.eviction import Evictor
from maniple_registry.management import Management
from maniple_runtime.consul.client import Consul
from maniple_runtime.control.messages import Heartbeat
from waiting import hold_within, wait_until


class Broker(BaseHTTPRequestHandler):
    """The management API of a broker with one connection that has a name, and two that have not."""

    shown: tuple[Any, ...] = ({"user_provided_name": "a1.control"}, {}, {"name": "y -> z"})

    away = False
    listed = 0

    def do_GET(self) -> None:
        if self.path.startswith("/api/connections"):
            Broker.listed += 1
        self._answer(500 if self.away else 200, json.dumps(self.shown).encode())

    def do_DELETE(self) -> None:
        self._answer(204 if self.path.endswith("/y%20-%3E%20z") else 404, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Broker) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_connections_without_a_name_are_passed_over(url: str) -> None:
    closed = await Management(url).close_connections({"a1.control", "y -> z"})
    assert (closed.count, closed.names) == (1, frozenset({"y -> z"}))


async def test_a_proxy_for_others_is_not_asked_for_the_brokers_own_pages(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert (await Management(url).close_connections({"y -> z"})).count == 1


def failed(**changes: Any) -> AgentRecord:
    fields = {"agent": "a1", "incarnation": "1", "sequence": 1, "digest": "d"}
    heartbeat = Heartbeat.model_validate(fields | {"sent_at": datetime.now(UTC)} | changes)
    return AgentRecord(AgentState.FAILED, heartbeat, 0.0, 0.0)


@asynccontextmanager
async def evicting(url: str, fleet: Agents | None = None) -> AsyncIterator[Evictor]:
    fleet = fleet or Agents()
    evictor = Evictor(
        Consul(url),
        Management(url),
        environment="dev",
        target=fleet.target,
        log=structlog.get_logger(),
        monotonic=monotonic,
    )
    task = asyncio.create_task(evictor.run_evictions())
    yield evictor
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_answer_that_nobody_foresaw_does_not_end_the_registry(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broker, "shown", (5,))
    monkeypatch.setattr("maniple_registry.eviction.PATIENCE", 0.1)
    with structlog.testing.capture_logs() as lines:
        async with evicting(url) as evictor:
            evictor.evict(failed(connections=["x"]))
            await wait_until(lambda: "connections not closed" in [line["event"] for line in lines])


async def test_many_evictions_take_one_listing_and_go_on_when_the_api_is_back(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broker, "away", True)
    monkeypatch.setattr(Broker, "listed", 0)
    async with evicting(url) as evictor:
        evictor.evict(failed(connections=["z"]))
        evictor.evict(failed(connections=["y -> z"]))
        await wait_until(lambda: Broker.listed == 2)
        Broker.away = False
        with structlog.testing.capture_logs() as lines:
            await wait_until(lambda: "connections closed" in [line["event"] for line in lines])
        assert Broker.listed == 3


NEWEST = ({"name": "y -> z", "user_provided_name": "a1.x"},)
SOON = 0.2


@pytest.fixture
def listing(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A broker that shows no connection yet; what it does not show is looked for again soon."""
    monkeypatch.setattr(Broker, "listed", 0)
    monkeypatch.setattr(Broker, "shown", ())
    monkeypatch.setattr("maniple_registry.eviction.NAMES_SHOW", SOON)
    return url


def closed(lines: list[Any]) -> list[int]:
    return [line["count"] for line in lines if line["event"] == "connections closed"]


async def test_a_connection_whose_name_does_not_show_yet_is_closed_when_it_does(
    listing: str,
) -> None:
    with structlog.testing.capture_logs() as lines:
        async with evicting(listing) as evictor:
            evictor.evict(failed(connections=["a1.x"]))
            await wait_until(lambda: closed(lines) == [0])
            Broker.shown = NEWEST
            await wait_until(lambda: closed(lines) == [0, 1])


async def test_those_that_are_gone_are_looked_for_twice_and_no_more(listing: str) -> None:
    async with evicting(listing) as evictor:
        evictor.evict(failed(connections=["a1.x"]))
        await wait_until(lambda: Broker.listed == 2)
        with pytest.raises(AssertionError):
            await hold_within(lambda: Broker.listed > 2, 3 * SOON)


async def test_nothing_is_looked_for_again_once_all_is_found_or_a_successor_is_heard(
    listing: str,
) -> None:
    fleet = Agents()
    gone = failed(connections=["a1.x"])
    async with evicting(listing, fleet) as evictor:
        Broker.shown = NEWEST
        evictor.evict(gone)
        await wait_until(lambda: Broker.listed == 1)
        Broker.shown = ()
        successor = failed(incarnation="2", connections=["a1.y"]).heartbeat
        fleet.record_heartbeat(successor, Instant(0.0, datetime.now(UTC)))
        evictor.evict(gone)
        await wait_until(lambda: Broker.listed == 2)
        with pytest.raises(AssertionError):
            await hold_within(lambda: Broker.listed > 2, 3 * SOON)
