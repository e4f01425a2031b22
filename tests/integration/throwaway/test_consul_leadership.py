"""`maniple_runtime.leadership` against a real Consul that goes away and comes back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from consul_server import ConsulServer, own_consul
from maniple_runtime.consul.client import Consul
from maniple_runtime.leadership import COMPONENT, Leadership
from maniple_runtime.metric_names import LEADS
from maniple_runtime.process import running
from maniple_runtime.runtime import Runtime
from maniple_runtime.settings import ServiceSettings
from waiting import wait_until


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ConsulServer]:
    async with own_consul(tmp_path) as server:
        yield server


@asynccontextmanager
async def candidate(
    server: ConsulServer, instance: str
) -> AsyncIterator[tuple[Runtime, Leadership]]:
    """A process that wants to lead."""
    made: list[Leadership] = []

    @asynccontextmanager
    async def build(runtime: Runtime) -> AsyncIterator[None]:
        made.append(Leadership(runtime))
        runtime.spawn(made[0].hold_leadership(), "leadership")
        yield
        await runtime.cancel_spawned()

    async with running(ServiceSettings(instance=instance, consul_url=server.url), build) as runtime:
        yield runtime, made[0]


def says(runtime: Runtime) -> str:
    return str(runtime.health.snapshot()["components"][COMPONENT]["detail"])


async def test_one_leads_and_the_other_takes_over_when_it_leaves(server: ConsulServer) -> None:
    async with candidate(server, "second") as (watching, second):
        async with candidate(server, "first") as (_, first):
            await wait_until(lambda: first.leads or second.leads)
            leader, standby = (first, second) if first.leads else (second, first)
            name = "first" if first.leads else "second"
            await wait_until(lambda: says(watching) == f"{name} leads")
            assert (leader.leads, standby.leads) == (True, False)
        await wait_until(lambda: second.leads)
        assert watching.metrics.registry.get_sample_value(LEADS.name) == 1


async def test_nobody_leads_while_consul_is_away_and_somebody_when_it_is_back_empty(
    server: ConsulServer,
) -> None:
    async with candidate(server, "only") as (runtime, only):
        await wait_until(lambda: only.leads)
        server.kill()
        await wait_until(lambda: not only.leads)
        assert runtime.health.status == "degraded"
        server.start()
        await wait_until(lambda: only.leads, 30)


async def test_a_leader_that_consul_does_not_answer_does_not_lead_for_long(
    server: ConsulServer,
) -> None:
    async with candidate(server, "only") as (_, only):
        await wait_until(lambda: only.leads)
        server.freeze()
        await wait_until(lambda: not only.leads)
        server.thaw()
        await wait_until(lambda: only.leads, 30)


async def test_who_stops_gives_the_lock_back_before_it_leaves_consul_so_that_it_is_free_at_once(
    server: ConsulServer,
) -> None:
    consul = Consul(server.url)
    for turn in range(3):
        async with candidate(server, f"turn-{turn}") as (runtime, first):
            await wait_until(lambda first=first: first.leads)  # type: ignore[misc]  # bound now
            key = f"{runtime.settings.consul_prefix}/service/leader"
            session = await consul.create_session("next", lock_delay=0)
            runtime.stopping.set()
            await wait_until(lambda consul=consul, key=key: _free(consul, key))  # type: ignore[misc]
            assert await consul.acquire(key, b"next", session)  # Consul refuses during a lock-delay
            await consul.release(key, session)
    consul.close()


async def _free(consul: Consul, key: str) -> bool:
    entry = await consul.kv_get(key)
    return entry is not None and entry.session is None
