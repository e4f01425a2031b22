"""`maniple_runtime.health`: what a process says about itself, in memory and over HTTP."""

import asyncio
import http.client
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from maniple.errors import ConfigurationError
from maniple_runtime.health import FAILING_AFTER, Health, HealthServer
from maniple_runtime.settings import ServiceSettings

PROMETHEUS = (  # what its 2.53 asks for
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;"
    "q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_process_is_ready_once_started_and_while_what_it_needs_is_ok() -> None:
    health = Health("policy", "p1")
    steps: list[tuple[bool, str]] = []

    def look() -> None:
        steps.append((health.ready, health.status))

    health.set("broker", ok=True, required=True)
    health.set("consul", ok=False)
    look()
    health.mark_started()
    look()
    health.set("broker", ok=False)
    look()
    health.set("broker", ok=True)
    health.mark_draining()
    look()
    assert steps == [
        (False, "degraded"),
        (True, "degraded"),
        (False, "degraded"),
        (False, "draining"),
    ]


def test_only_a_required_component_that_is_bad_for_long_fails_the_check() -> None:
    clock = Clock()
    health = Health("policy", "p1", clock=clock)
    health.set("broker", ok=False, required=True)
    health.set("consul", ok=False)
    clock.now += FAILING_AFTER - 1
    alive = [health.is_alive]
    health.set("broker", ok=False, detail="still")
    clock.now += 1
    alive.append(health.is_alive)
    health.set("broker", ok=True)
    alive.append(health.is_alive)
    assert alive == [True, False, True]


class Pages:
    """A served process, asked over real HTTP from a thread."""

    def __init__(self) -> None:
        self.settings = ServiceSettings(instance="p1")
        self.health = Health("policy", "p1")
        self.registry = CollectorRegistry()
        self.server = HealthServer(self.settings, self.health, self.registry)

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
        def work() -> tuple[int, str, str]:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=5)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            body = answer.read().decode()
            connection.close()
            return answer.status, answer.headers["content-type"], body

        return await asyncio.to_thread(work)


async def test_the_pages_answer_on_the_port_that_is_really_bound() -> None:
    pages = Pages()
    async with pages.server:
        assert pages.server.url == f"http://127.0.0.1:{pages.server.port}"
        assert pages.server.port > 0
        status, kind, body = await pages.ask("/health")
        assert (status, kind) == (200, "application/json")
        assert '"instance": "p1"' in body
        assert (await pages.ask("/ready"))[0] == 503
        pages.health.mark_started()
        assert (await pages.ask("/ready"))[0] == 200
        assert (await pages.ask("/nothing"))[0] == 404
        assert (await pages.ask("/health", "POST"))[0] == 405
        assert (await pages.ask("/health", "HEAD"))[2] == ""


async def test_metrics_are_openmetrics_when_asked_for_and_text_otherwise() -> None:
    pages = Pages()
    Counter("maniple_things", "Things", registry=pages.registry).inc()
    async with pages.server:
        _, kind, body = await pages.ask("/metrics", accept=PROMETHEUS)
        assert kind.startswith("application/openmetrics-text")
        assert body.endswith("# EOF\n")
        _, kind, body = await pages.ask("/metrics")
        assert kind.startswith("text/plain")
        assert "maniple_things_total 1.0" in body


async def test_a_taken_port_is_an_error_that_names_its_variable() -> None:
    first = Pages()
    async with first.server:
        settings = ServiceSettings(http_port=first.server.port)
        with pytest.raises(ConfigurationError, match="MANIPLE_HTTP_PORT"):
            await HealthServer(settings, first.health).__aenter__()


async def test_the_server_is_gone_after_leaving() -> None:
    pages = Pages()
    async with pages.server:
        pass
    with pytest.raises(ConnectionRefusedError):
        await pages.ask("/health")


def test_a_snapshot_lists_components_and_versions() -> None:
    health = Health("policy", "p1", timings={"failed": 9.0})
    health.set("broker", ok=True, detail="fine", required=True)
    health.versions["retry/default"] = 3
    expected: dict[str, Any] = {
        "service": "policy",
        "instance": "p1",
        "status": "ok",
        "ready": False,
        "components": {"broker": {"ok": True, "detail": "fine", "required": True}},
        "versions": {"retry/default": 3},
        "timings": {"failed": 9.0},
    }
    assert health.snapshot() == expected
