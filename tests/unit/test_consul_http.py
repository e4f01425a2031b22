"""`maniple_runtime.consul.client` and what is no Consul's answer, over HTTP."""

import contextlib
import gc
import threading
from collections.abc import Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from maniple_runtime.consul import client as consul_module
from maniple_runtime.consul.catalog import Ailing, CatalogEntry, Instance
from maniple_runtime.consul.client import Consul, ConsulRefused, ConsulUnavailable
from waiting import wait_until


class Rubbish(BaseHTTPRequestHandler):
    """Answers every request with the server's `body` and `told` headers."""

    def do_GET(self) -> None:
        server: Any = self.server
        # What is sent to a connection that is closed on it ends the answer as well.
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(server.status)
        for name, value in server.told.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    do_PUT = do_GET  # noqa: N815 - the names of the standard library

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class KeepsAlive(Rubbish):
    """Leaves connections open, as Consul does, and counts them."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self)  # type: ignore[attr-defined]

    def finish(self) -> None:
        super().finish()
        self.server.open.discard(self)  # type: ignore[attr-defined]


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Rubbish) as serving:
        found: Any = serving
        found.status, found.body, found.told = 200, b"", {"X-Consul-Index": "7"}
        found.open = set()
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield found
        serving.shutdown()
        thread.join()


Asked = list[tuple[str, Any]]
"""What was asked, with the answer or the error."""


async def ask_everything(server: Any) -> Asked:
    """Ask all that our processes ask; only the errors that they expect may come of it."""
    consul = Consul(f"http://127.0.0.1:{server.server_port}")
    told: Asked = []
    calls: dict[str, Coroutine[Any, Any, Any]] = {
        "kv_list": consul.kv_list("a/"),
        "kv_get": consul.kv_get("a"),
        "watch": consul.watch("a/", 3, 0.1),
        "instances": consul.instances("maniple-agent"),
        "some_instances": consul.some_instances("maniple-agent", ["a"]),
        "ailing": consul.ailing("maniple-", "dev"),
        "services": consul.services(),
        "registered": consul.registered("a"),
        "create_session": consul.create_session("a"),
        "pass_ttl": consul.pass_ttl("a"),
    }
    for name, call in calls.items():
        try:
            told.append((name, await call))
        except (ConsulUnavailable, ConsulRefused) as error:
            told.append((name, error))
    consul.close()
    return told


def is_one(asked: str, answer: Any) -> bool:
    """Whether what was understood of an answer is what those who ask go on with."""
    if isinstance(answer, ConsulUnavailable):
        return 0 < len(str(answer)) <= consul_module.MOST_TOLD
    if asked in ("kv_list", "watch"):
        index, entries = answer
        return isinstance(index, int) and all(isinstance(one, CatalogEntry) for one in entries)
    if asked in ("instances", "some_instances", "ailing"):
        kind = Ailing if asked == "ailing" else Instance
        return all(isinstance(one, kind) for one in answer)
    if asked == "kv_get":
        return answer is None or isinstance(answer, CatalogEntry)
    kinds = {"services": dict, "registered": bool, "create_session": str, "pass_ttl": bool}
    return isinstance(answer, kinds[asked])


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"null",
        b"7",
        b'"text"',
        b'{"a": 1}',
        b'[null, 7, {"Key": 3}, {"Service": null}]',
        b'[{"Service": {"ID": "a"}, "Node": {}, "Checks": [{}]}]',
        b'[{"ServiceName": 7}, {"ServiceName": "maniple-agent", "ServiceTags": ["dev"]}]',
        b"\xff\xfe",
        b"<html>",
    ],
    ids=lambda body: ascii(body)[:30],
)
@pytest.mark.parametrize("index", ["7", "9" * 5000, None], ids=["index", "vast", "none"])
async def test_what_is_no_consuls_answer_is_told_and_ends_nothing(
    server: Any, body: bytes, index: str | None
) -> None:
    server.body, server.told = body, {} if index is None else {"X-Consul-Index": index}
    told = await ask_everything(server)
    assert [one for one in told if not is_one(*one)] == []
    # No body makes sense to all that is asked.
    assert any(isinstance(answer, ConsulUnavailable) for _, answer in told)


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_a_refusal_in_many_words_is_told_in_few(server: Any, status: int) -> None:
    server.status, server.body = status, b"because " * 100_000
    kind = ConsulUnavailable if status == 500 else ConsulRefused
    for asked, answer in await ask_everything(server):
        assert isinstance(answer, kind), asked
        assert "because because" in str(answer), asked
        assert len(str(answer)) <= consul_module.MOST_TOLD, asked


async def test_an_answer_that_is_far_too_large_is_not_read_to_its_end(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consul_module, "MOST_BYTES", 1000)
    server.body = b"[" + b" " * 1_000_000 + b"]"
    consul = Consul(f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(ConsulUnavailable, match="more than 1,000 bytes"):
        await consul.kv_list("a/")
    server.body = b"[]"
    assert await consul.kv_list("a/") == (7, [])
    consul.close()


async def test_one_odd_entry_costs_no_other(server: Any) -> None:
    server.body = b'[{"Key": 7}, {"Key": "a/b", "Value": "eA==", "ModifyIndex": 3}, null]'
    consul = Consul(f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(ConsulUnavailable):  # that the library itself does not take
        await consul.kv_list("a/")
    server.body = b'[{"Key": 7}, {"Key": "a/b", "Value": "eA==", "ModifyIndex": 3}]'
    _, entries = await consul.kv_list("a/")
    assert [entry.key for entry in entries] == ["a/b"]
    consul.close()


@pytest.mark.parametrize("status", [200, 500])
async def test_a_watch_leaves_no_connection_to_the_garbage_collector(
    server: Any, status: int
) -> None:
    server.RequestHandlerClass, server.status, server.body = KeepsAlive, status, b"[]"
    consul = Consul(f"http://127.0.0.1:{server.server_port}")
    gc.disable()
    try:
        for _ in range(3):
            with contextlib.suppress(ConsulUnavailable):
                await consul.watch("a/", 3, 0.1)
        await wait_until(lambda: not server.open)
    finally:
        gc.enable()
        consul.close()
