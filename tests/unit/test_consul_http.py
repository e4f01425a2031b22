"""`maniple_runtime.consul.client` and what is no Consul's answer, over HTTP."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from maniple_runtime.consul import client as consul_module
from maniple_runtime.consul.client import Consul, ConsulRefused, ConsulUnavailable


class Rubbish(BaseHTTPRequestHandler):
    """Answers every request with the server's `body` and `told` headers."""

    def do_GET(self) -> None:
        server: Any = self.server
        self.send_response(server.status)
        for name, value in server.told.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    do_PUT = do_GET  # noqa: N815 - the names of the standard library

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Rubbish) as serving:
        found: Any = serving
        found.status, found.body, found.told = 200, b"", {"X-Consul-Index": "7"}
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield found
        serving.shutdown()
        thread.join()


async def ask_everything(consul: Consul) -> None:
    """Ask all that our processes ask; only the errors that they expect may come of it."""
    for asked in (
        consul.kv_list("a/"),
        consul.kv_get("a"),
        consul.watch("a/", 3, 0.1),
        consul.instances("maniple-agent"),
        consul.some_instances("maniple-agent", ["a"]),
        consul.ailing("maniple-", "dev"),
        consul.services(),
        consul.registered("a"),
        consul.create_session("a"),
        consul.pass_ttl("a"),
    ):
        try:
            await asked
        except (ConsulUnavailable, ConsulRefused) as error:
            assert len(str(error)) <= consul_module.MOST_TOLD  # noqa: PT017 - either may happen


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
    consul = Consul(f"http://127.0.0.1:{server.server_port}")
    await ask_everything(consul)
    consul.close()


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_a_refusal_in_many_words_is_told_in_few(server: Any, status: int) -> None:
    server.status, server.body = status, b"because " * 100_000
    consul = Consul(f"http://127.0.0.1:{server.server_port}")
    await ask_everything(consul)
    consul.close()


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
