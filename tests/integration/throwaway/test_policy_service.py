"""The policy service against real RabbitMQ and Consul."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from consul_server import ConsulServer as OwnConsul
from local_servers import LocalServers
from maniple.errors import RequestFailed
from maniple_runtime.consul.client import CREATE_ONLY, Consul, ConsulUnavailable
from maniple_runtime.process import running
from maniple_runtime.settings import ServiceSettings
from policy_records import document
from policy_services import Follower, Operator, asking, policy_key, policy_service
from waiting import wait_until


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
    assert [p["policy"]["name"] for p in snapshot["policies"]] == ["a", "b"]
    again = await operator.ask("snapshot", digest=snapshot["digest"])
    assert again == {"digest": snapshot["digest"], "revision": 2, "current": True}


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
    async with policy_service(servers.rabbitmq, consul, tmp_path / "two"):
        replies = await asyncio.gather(*(operator.apply("t", n) for n in range(1, 13)))
        versions = sorted(reply["policy"]["version"] for reply in replies)
        assert versions == list(range(1, 13))
        got = await operator.ask("get", kind="timeout", name="t")
        assert len(got["history"]) == 11


async def test_an_edit_in_consul_is_taken_and_a_wrong_one_is_refused(
    servers: LocalServers, operator: Operator, consul: OwnConsul
) -> None:
    await operator.apply("t", 3)
    client = Consul(consul.url)
    key = policy_key(servers, "t")
    await client.kv_put(key, json.dumps(document("t", 9)).encode())
    await wait_until(lambda: any(e.version == 2 for e in operator.events))
    got = await operator.ask("get", kind="timeout", name="t")
    assert (got["policy"]["spec"]["seconds"], got["author"]) == (9.0, "consul")
    await client.kv_put(key, b"{nonsense")
    await client.kv_put(policy_key(servers, "u"), json.dumps(document("u")).encode())
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
    servers: LocalServers, operator: Operator, consul: OwnConsul
) -> None:
    await operator.apply("t", 3)
    await operator.apply("t", 4)
    consul.kill()
    consul.start()
    client = Consul(consul.url)

    record: dict[str, Any] = {}

    async def restored() -> bool:
        with contextlib.suppress(ConsulUnavailable):
            if entry := await client.kv_get(policy_key(servers, "t")):
                record.update(json.loads(entry.value))
        return bool(record)

    await wait_until(restored, 20)
    assert (record["policy"]["version"], len(record["history"])) == (2, 1)
    assert not await client.kv_put(policy_key(servers, "t"), b"", cas=CREATE_ONLY)
    assert (await operator.apply("t", 5))["policy"]["version"] == 3
    client.close()


async def test_it_starts_without_consul_from_its_disk(
    servers: LocalServers, consul: OwnConsul, tmp_path: Path
) -> None:
    async with asking(servers.rabbitmq) as operator:
        async with policy_service(servers.rabbitmq, consul, tmp_path / "kept"):
            await operator.apply("t", 7)
        consul.kill()
        async with policy_service(servers.rabbitmq, consul, tmp_path / "kept") as runtime:
            listed = await operator.ask("list")
            assert [p["policy"]["spec"]["seconds"] for p in listed["policies"]] == [7.0]
            assert runtime.health.ready
        async with policy_service(servers.rabbitmq, consul, tmp_path / "fresh"):
            with pytest.raises(RequestFailed) as refused:
                await operator.ask("snapshot")
            assert refused.value.code == "store_unavailable"


async def test_a_change_reaches_a_following_process_and_outlives_the_service(
    servers: LocalServers, consul: OwnConsul, tmp_path: Path
) -> None:
    settings = ServiceSettings(
        broker_url=servers.rabbitmq.url("agent"), consul_url=consul.url, data_dir=tmp_path / "f"
    )

    def seconds() -> float | None:
        return follower.view.resolve("t.stats", "t", {}).timeout

    async with asking(servers.rabbitmq) as operator:
        async with policy_service(servers.rabbitmq, consul, tmp_path / "p"):
            follower = Follower()
            async with running(settings, follower.build) as runtime:
                for value in (2.0, 3.0, 4.0):
                    await operator.apply("t", value)
                    await wait_until(lambda expected=value: seconds() == expected)  # type: ignore[misc]  # bound now
                assert runtime.health.versions["timeout/t"] == 3
        follower = Follower()
        async with running(settings, follower.build) as runtime:
            assert seconds() == 4.0
            await wait_until(lambda: runtime.health.status == "degraded", 15)
