"""`maniple_registry.eviction` and `.management`: whatever the broker says, the registry goes on."""

import json
import threading
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import structlog

from maniple.control import Heartbeat
from maniple.service.consul import Consul
from maniple_registry.domain.membership import AgentRecord, AgentState
from maniple_registry.eviction import Evictor
from maniple_registry.management import Management


class Broker(BaseHTTPRequestHandler):
    """The management API of a broker with one connection that has a name, and two that have not."""

    shown: tuple[Any, ...] = ({"user_provided_name": "a1.control"}, {}, {"name": "y -> z"})

    def do_GET(self) -> None:
        self._answer(200, json.dumps(self.shown).encode())

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
    assert await Management(url).close_connections({"a1.control", "y -> z"}) == 1


async def test_an_answer_that_nobody_foresaw_does_not_end_the_registry(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broker, "shown", (5,))
    spawned: list[Coroutine[Any, Any, None]] = []
    log = structlog.get_logger()
    evictor = Evictor(
        Consul(url), Management(url), spawn=lambda work, _name: spawned.append(work), log=log
    )
    heartbeat = Heartbeat.model_validate(
        {"agent": "a1", "incarnation": "1", "sequence": 1, "digest": "d", "connections": ["x"]}
        | {"sent_at": datetime.now(UTC)}
    )
    evictor.evict(AgentRecord(AgentState.FAILED, heartbeat, 0.0, 0.0), replaced=True)
    (closing,) = spawned
    with structlog.testing.capture_logs() as lines:
        await closing
    assert [line["event"] for line in lines] == ["connections not closed"]
