"""The policy service against real RabbitMQ and Consul."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from conftest import LocalServers
from consul_server import ConsulServer as OwnConsul
from consul_server import wait_until
from maniple.errors import RequestFailed
from maniple.events import PolicyChanged
from maniple.service.broker import ControlPlane
from maniple.service.consul import CREATE_ONLY, Consul
from maniple.service.policy_view import PolicyView
from maniple.service.runner import Runtime, running
from maniple.service.settings import ServiceSettings
from maniple.service.telemetry import get_logger
from maniple.topology import EVENTS
from maniple_policy.settings import PolicySettings
from maniple_policy.wiring import build


def document(name: str, seconds: float = 3.0, **match: str) -> dict[str, Any]:
    return {"kind": "timeout", "name": name, "match": match, "spec": {"seconds": seconds}}


class Operator:
    """Somebody who asks the policy service and hears its events."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.events: list[PolicyChanged] = []

    async def ask(self, op: str, **body: Any) -> dict[str, Any]:
        return await self.plane.request("policy", f"policy.{op}", body, timeout=10)

    async def apply(self, name: str, seconds: float = 3.0, **more: Any) -> dict[str, Any]:
        return await self.ask("apply", document=document(name, seconds), **more)


@pytest.fixture
async def consul(tmp_path: Path) -> AsyncIterator[OwnConsul]:
    """A Consul of the test's own, to be killed and emptied."""
    own = OwnConsul(tmp_path).start()
    await wait_until(own.answers)
    yield own
    own.kill()


@contextlib.asynccontextmanager
async def policy_service(
    servers: LocalServers, consul: OwnConsul, folder: Path
) -> AsyncIterator[Runtime]:
    settings = PolicySettings(
        broker_url=servers.rabbitmq.url("policy"), consul_url=consul.url, data_dir=folder
    )
    async with running(settings, build) as runtime:
        yield runtime


@pytest.fixture
async def operator(
    servers: LocalServers, consul: OwnConsul, tmp_path: Path
) -> AsyncIterator[Operator]:
    """A running policy service, and who asks it."""
    async with (
        policy_service(servers, consul, tmp_path / "one"),
        asking(servers) as operator,
    ):
        yield operator


@contextlib.asynccontextmanager
async def asking(servers: LocalServers) -> AsyncIterator[Operator]:
    name = f"test-{uuid.uuid4().hex[:6]}"
    async with ControlPlane(servers.rabbitmq.url("registry"), name=name, log=get_logger()) as plane:
        operator = Operator(plane)
        await plane.subscribe(EVENTS, ("policy.#",), PolicyChanged, operator.events.append)
        yield operator


async def test_a_policy_is_stored_with_its_history_and_announced(operator: Operator) -> None:
    first = await operator.apply("t", 3, author="ann", reason="try")
    assert (first["policy"]["version"], first["changed"]) == (1, True)
    assert not (await operator.apply("t", 3, author="bob"))["changed"]
    second = await operator.apply("t", 4, author="bob")
    got = await operator.ask("get", kind="timeout", name="t")
    assert got["policy"]["spec"] == {"seconds": 4.0}
    assert [(r["policy"]["version"], r["author"], r["reason"]) for r in got["history"]] == [
        (1, "ann", "try")
    ]
    await wait_until(lambda: len(operator.events) >= 2)
    assert [(e.version, e.author) for e in operator.events] == [(1, "ann"), (2, "bob")]
    assert operator.events[-1].digest == second["digest"]


async def test_a_snapshot_is_sent_only_to_who_does_not_have_it(operator: Operator) -> None:
    await operator.apply("a")
    await operator.apply("b")
    snapshot = await operator.ask("snapshot")
    assert [p["name"] for p in snapshot["policies"]] == ["a", "b"]
    again = await operator.ask("snapshot", digest=snapshot["digest"])
    assert again == {"digest": snapshot["digest"]}


async def test_only_a_tombstone_deletes(operator: Operator) -> None:
    await operator.apply("t")
    deleted = await operator.ask("delete", kind="timeout", name="t", reason="enough")
    assert (deleted["policy"]["version"], deleted["deleted"]) == (2, True)
    assert (await operator.ask("list"))["policies"] == []
    with pytest.raises(RequestFailed) as refused:
        await operator.ask("get", kind="timeout", name="t")
    assert refused.value.code == "unknown_policy"
    assert (await operator.apply("t"))["policy"]["version"] == 3


async def test_a_wrong_document_is_refused_with_its_field(operator: Operator) -> None:
    with pytest.raises(RequestFailed, match="seconds") as refused:
        await operator.apply("t", -1)
    assert refused.value.code == "invalid_policy"
    assert (await operator.ask("list"))["policies"] == []


async def test_a_writer_who_knows_an_older_version_is_refused(operator: Operator) -> None:
    await operator.apply("t", 1, expect=0)
    await operator.apply("t", 2, expect=1)
    for expect in (0, 1):
        with pytest.raises(RequestFailed) as refused:
            await operator.apply("t", 3, expect=expect)
        assert refused.value.code == "conflict"


async def test_writers_at_once_on_two_replicas_lose_nothing(
    servers: LocalServers, consul: OwnConsul, operator: Operator, tmp_path: Path
) -> None:
    async with policy_service(servers, consul, tmp_path / "two"):
        replies = await asyncio.gather(*(operator.apply("t", n) for n in range(1, 13)))
        versions = sorted(reply["policy"]["version"] for reply in replies)
        assert versions == list(range(1, 13))
        got = await operator.ask("get", kind="timeout", name="t")
        assert len(got["history"]) == 11


async def test_an_edit_in_consul_is_taken_and_a_wrong_one_is_refused(
    operator: Operator, consul: OwnConsul
) -> None:
    await operator.apply("t", 3)
    client = Consul(consul.url)
    key = "maniple/dev/policies/timeout/t"
    await client.kv_put(key, json.dumps(document("t", 9)).encode())
    await wait_until(lambda: any(e.version == 2 for e in operator.events))
    got = await operator.ask("get", kind="timeout", name="t")
    assert (got["policy"]["spec"]["seconds"], got["author"]) == (9.0, "consul")
    await client.kv_put(key, b"{nonsense")
    await client.kv_put("maniple/dev/policies/timeout/u", json.dumps(document("u")).encode())
    await wait_until(lambda: any(e.name == "u" for e in operator.events))
    listed = await operator.ask("list")
    assert [p["policy"]["version"] for p in listed["policies"]] == [2, 1]
    client.close()


async def test_without_consul_it_serves_what_it_has_and_stores_nothing(
    operator: Operator, consul: OwnConsul
) -> None:
    await operator.apply("t", 3)
    consul.kill()
    assert len((await operator.ask("list"))["policies"]) == 1
    with pytest.raises(RequestFailed) as refused:
        await operator.apply("t", 4)
    assert refused.value.code == "store_unavailable"


async def test_a_consul_that_comes_back_empty_is_restored_from_disk(
    operator: Operator, consul: OwnConsul
) -> None:
    await operator.apply("t", 3)
    await operator.apply("t", 4)
    consul.kill()
    consul.start()
    client = Consul(consul.url)

    async def restored() -> dict[str, Any]:
        while True:
            with contextlib.suppress(Exception):
                entry = await client.kv_get("maniple/dev/policies/timeout/t")
                if entry is not None:
                    return dict(json.loads(entry.value))
            await asyncio.sleep(0.05)

    async with asyncio.timeout(20):
        record = await restored()
    assert (record["policy"]["version"], len(record["history"])) == (2, 1)
    assert not await client.kv_put("maniple/dev/policies/timeout/t", b"", cas=CREATE_ONLY)
    assert (await operator.apply("t", 5))["policy"]["version"] == 3
    client.close()


async def test_it_starts_without_consul_from_its_disk(
    servers: LocalServers, consul: OwnConsul, tmp_path: Path
) -> None:
    async with asking(servers) as operator:
        async with policy_service(servers, consul, tmp_path / "kept"):
            await operator.apply("t", 7)
        consul.kill()
        async with policy_service(servers, consul, tmp_path / "kept") as runtime:
            listed = await operator.ask("list")
            assert [p["policy"]["spec"]["seconds"] for p in listed["policies"]] == [7.0]
            assert runtime.health.ready
        async with policy_service(servers, consul, tmp_path / "fresh"):
            with pytest.raises(RequestFailed) as refused:
                await operator.ask("snapshot")
            assert refused.value.code == "store_unavailable"


class Follower:
    """A process that evaluates policies."""

    view: PolicyView

    @contextlib.asynccontextmanager
    async def build(self, runtime: Runtime) -> AsyncIterator[None]:
        async with ControlPlane(
            runtime.settings.broker_url, name=runtime.settings.instance, log=runtime.log
        ) as plane:
            self.view = PolicyView(runtime, plane)
            await self.view.start()
            yield


async def test_a_change_reaches_a_following_process_within_a_second_and_outlives_the_service(
    servers: LocalServers, consul: OwnConsul, tmp_path: Path
) -> None:
    settings = ServiceSettings(
        broker_url=servers.rabbitmq.url("agent"), consul_url=consul.url, data_dir=tmp_path / "f"
    )

    def seconds() -> float | None:
        return follower.view.resolve("text.stats", "t", {}).timeout

    async with asking(servers) as operator:
        async with policy_service(servers, consul, tmp_path / "p"):
            follower = Follower()
            async with running(settings, follower.build) as runtime:
                await operator.apply("t", 3)
                await wait_until(lambda: seconds() == 3.0, timeout=1)
                await operator.apply("t", 4)
                await wait_until(lambda: seconds() == 4.0, timeout=1)
                assert runtime.health.versions["timeout/t"] == 2
        follower = Follower()
        async with running(settings, follower.build) as runtime:
            assert seconds() == 4.0
            await wait_until(lambda: runtime.health.status == "degraded", timeout=15)
