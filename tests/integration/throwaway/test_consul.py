"""`maniple_runtime.consul.client` and `presence` against a real Consul."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import ANY

import pytest

from consul_server import ConsulServer, own_consul
from maniple.timings import Bounds, Catalog, Timings
from maniple_cli.dev_cluster.ports import free_ports
from maniple_runtime.consul.catalog import SELECTED, Ailing, Put
from maniple_runtime.consul.client import (
    CREATE_ONLY,
    Consul,
    ConsulUnavailable,
    ttl_check,
)
from maniple_runtime.consul.registration import Registration
from maniple_runtime.health import Health, HealthServer
from maniple_runtime.process import running
from maniple_runtime.runtime import Runtime
from maniple_runtime.settings import ServiceSettings
from timed import timed
from waiting import wait_until


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ConsulServer]:
    async with own_consul(tmp_path_factory.mktemp("consul")) as server:
        yield server


@pytest.fixture
async def consul(server: ConsulServer) -> AsyncIterator[Consul]:
    consul = Consul(server.url)
    yield consul
    await consul.kv_delete("test/", recurse=True)
    consul.close()


SELDOM = Timings(catalog=Catalog(http_interval=200.0, gone=400.0), bounds=Bounds(unwell=400.0))
"""Consul looks at a process so seldom that what it finds there does not matter."""


@contextlib.asynccontextmanager
async def present(
    server: ConsulServer,
    instance: str,
    health: Health | None = None,
    timings: Timings | None = None,
) -> AsyncIterator[tuple[Consul, Health]]:
    """A process that serves its pages and is registered."""
    settings = timed(ServiceSettings(instance=instance, consul_url=server.url), timings)
    health = health or Health("service", instance)
    consul = Consul(server.url)
    async with HealthServer(settings, health) as pages:
        presence = Registration(consul, settings, health, port=pages.port)
        presence.register()
        try:
            yield consul, health
        finally:
            await presence.deregister()
            consul.close()


async def status_of(consul: Consul, instance: str) -> str:
    found = [i for i in await consul.instances("maniple-service") if i.id == instance]
    if not found:
        return "absent"
    # The service and its TTL check are registered one after the other.
    return found[0].status if ttl_check(instance) in found[0].checks else "half registered"


async def until_status(consul: Consul, instance: str, status: str) -> None:
    async def is_so() -> bool:
        return await status_of(consul, instance) == status

    await wait_until(is_so, 20)


async def test_a_process_is_healthy_in_consul_before_it_is_looked_at_again_and_gone_after(
    server: ConsulServer, consul: Consul
) -> None:
    async with present(server, "one", timings=SELDOM):
        await until_status(consul, "one", "passing")
        (found,) = await consul.instances("maniple-service")
        assert set(found.checks) == {"serfHealth", "http:one", ttl_check("one")}
        assert found.tags == ("maniple", "dev")
        assert "maniple-service" in await consul.services()
    assert await status_of(consul, "one") == "absent"


async def test_a_process_leaves_consul_before_it_lets_go_of_anything_else(
    server: ConsulServer, consul: Consul
) -> None:
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def build(_runtime: Runtime) -> AsyncIterator[None]:
        yield
        seen.append(await status_of(consul, "leaving"))

    settings = timed(ServiceSettings(instance="leaving", consul_url=server.url), SELDOM)
    async with running(settings, build):
        await until_status(consul, "leaving", "passing")
    assert seen == ["absent"]


async def test_a_process_that_cannot_prove_its_work_becomes_critical(
    server: ConsulServer, consul: Consul
) -> None:
    async with present(server, "two") as (_, health):
        await until_status(consul, "two", "passing")
        health.set("broker", ok=False, required=True)
        await until_status(consul, "two", "critical")
        health.set("broker", ok=True)
        await until_status(consul, "two", "passing")


async def test_an_entry_that_consul_lost_is_made_again(
    server: ConsulServer, consul: Consul
) -> None:
    async with present(server, "three"):
        await until_status(consul, "three", "passing")
        await consul.deregister_service("three")
        await until_status(consul, "three", "passing")


async def test_a_consul_that_restarts_empty_gets_the_process_back(tmp_path: Path) -> None:
    async with own_consul(tmp_path) as own, present(own, "four") as (consul, health):
        await until_status(consul, "four", "passing")
        own.kill()
        await wait_until(lambda: health.status == "degraded")
        assert health.is_alive
        own.start()
        await wait_until(lambda: health.status == "ok")
        await until_status(consul, "four", "passing")


async def test_a_frozen_consul_costs_a_bounded_time(tmp_path: Path) -> None:
    async with own_consul(tmp_path) as own:
        consul = Consul(own.url)
        own.freeze()
        # Its timeout ended it, at the first try; how late one hears of that is up to the machine.
        with pytest.raises(ConsulUnavailable, match=r"^Consul: did not answer in time$"):
            await consul.kv_get("test/a")
        own.thaw()
        assert await consul.kv_get("test/a") is None
        consul.close()


async def test_consul_that_is_not_there_is_said_by_its_own_error() -> None:
    consul = Consul(f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(ConsulUnavailable, match="Consul"):
        await consul.services()
    consul.close()


async def test_the_url_wins_over_the_environment_of_the_consul_tools(
    server: ConsulServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", f"127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_ports(1)[0]}")
    consul = Consul(server.url)
    assert "consul" in await consul.services()
    consul.close()


async def test_compare_and_set_lets_one_of_two_writers_win(consul: Consul) -> None:
    assert await consul.kv_put("test/k", b"1", cas=CREATE_ONLY)
    assert not await consul.kv_put("test/k", b"2", cas=CREATE_ONLY)
    entry = await consul.kv_get("test/k")
    assert entry is not None
    writes = [consul.kv_put("test/k", value, cas=entry.index) for value in (b"3", b"4")]
    assert sorted(await asyncio.gather(*writes)) == [False, True]


async def test_a_transaction_writes_all_or_nothing(consul: Consul) -> None:
    assert await consul.transaction([Put("test/a", b"\x00\xff", CREATE_ONLY), Put("test/b", b"b")])
    assert not await consul.transaction([Put("test/c", b"c"), Put("test/a", b"x", CREATE_ONLY)])
    _, entries = await consul.kv_list("test/")
    assert {e.key: e.value for e in entries} == {"test/a": b"\x00\xff", "test/b": b"b"}


async def test_a_watch_returns_when_something_changes_and_else_after_its_wait(
    consul: Consul,
) -> None:
    await consul.kv_put("test/w/a", b"1")
    index, _ = await consul.kv_list("test/w/")
    watching = asyncio.create_task(consul.watch("test/w/", index, wait=30))
    await consul.kv_put("test/w/b", b"2")
    async with asyncio.timeout(3):
        newer, entries = await watching
    assert newer > index
    assert [e.key for e in entries] == ["test/w/a", "test/w/b"]
    assert await consul.watch("test/w/", newer, wait=0.2) == (newer, entries)


async def test_a_lock_has_one_holder_and_passes_on_when_its_session_ends(consul: Consul) -> None:
    first = await consul.create_session("first", lock_delay=0)
    second = await consul.create_session("second", lock_delay=0)
    assert await consul.acquire("test/lock", b"first", first)
    assert not await consul.acquire("test/lock", b"second", second)
    held = await consul.kv_get("test/lock")
    assert held is not None
    assert held.session == first
    await consul.destroy_session(first)
    assert await consul.acquire("test/lock", b"second", second)
    assert await consul.release("test/lock", second)
    await consul.destroy_session(second)


async def test_a_session_may_hang_on_a_processes_own_check(
    server: ConsulServer, consul: Consul
) -> None:
    async with present(server, "five") as (_, health):
        await until_status(consul, "five", "passing")
        session = await consul.create_session("led", checks=[ttl_check("five")])
        assert await consul.acquire("test/leader", b"five", session)
        health.set("broker", ok=False, required=True)
        await until_status(consul, "five", "critical")
        held = await consul.kv_get("test/leader")
        assert held is not None
        assert held.session is None


async def test_the_critical_checks_of_a_service_are_told_apart_by_tag(
    server: ConsulServer, consul: Consul
) -> None:
    async with present(server, "six") as (_, health):
        await until_status(consul, "six", "passing")
        assert await consul.ailing("maniple-", "default") == []
        health.set("broker", ok=False, required=True)
        await until_status(consul, "six", "critical")
        assert await consul.ailing("maniple-", "dev") == [
            Ailing("six", "maniple-service", ANY, frozenset({ttl_check("six")}))
        ]
        assert await consul.ailing("maniple-", "other") == []
        assert await consul.ailing("maniple-agent", "dev") == []


async def test_removing_what_is_not_there_is_no_error(consul: Consul) -> None:
    await consul.deregister_service("nobody")
    assert not await consul.pass_ttl("nobody")
    assert not await consul.registered("nobody")


async def test_some_instances_can_be_asked_for_by_id_however_many(consul: Consul) -> None:
    wanted = [f"some-{number}" for number in range(SELECTED + 2)]
    for instance in (*wanted, "another"):
        await consul.register_service("maniple-some", instance, address="127.0.0.1", port=1)
    found = await consul.some_instances("maniple-some", [*wanted, "nobody", 'with "quotes"'])
    assert {one.id for one in found} == set(wanted)
    assert all(set(one.checks) >= {ttl_check(one.id)} for one in found)
    assert await consul.some_instances("maniple-some", []) == []
