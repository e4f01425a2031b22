"""How a change reaches every process, and how the policy service knows that it has."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from consul_server import ConsulServer as OwnConsul
from local_servers import LocalServers
from maniple.timings import Policies, Timings
from maniple_policies.kinds.fallback import FallbackPolicy
from maniple_runtime.events import PolicyApplied
from maniple_runtime.process import running
from maniple_runtime.runtime import Runtime
from maniple_runtime.settings import ServiceSettings
from policy_records import document
from policy_services import Follower, Operator, asking, policy_service, views
from waiting import wait_until

PROCESSES = 50


class DispatcherLike(ServiceSettings):
    """A process that stands in Consul as a dispatcher."""

    service: ClassVar[str] = "dispatcher"


@pytest.fixture
def gone() -> float:
    """Seconds after which who is not in Consul and says nothing is forgotten."""
    return 2.0


@pytest.fixture
async def operator(
    servers: LocalServers, consul: OwnConsul, tmp_path: Path, gone: float
) -> AsyncIterator[Operator]:
    """Two replicas of the policy service, which soon forget who is gone, and who asks them."""
    timings = Timings(policies=Policies(gone=gone))
    async with (
        policy_service(servers.rabbitmq, consul, tmp_path / "one", timings),
        policy_service(servers.rabbitmq, consul, tmp_path / "two", timings),
        asking(servers.rabbitmq) as operator,
    ):
        yield operator


@contextlib.asynccontextmanager
async def nothing(_runtime: Runtime) -> AsyncIterator[None]:
    yield


async def counts(operator: Operator, key: str = "timeout/t") -> dict[str, int]:
    policies = {one["policy"]: one for one in (await operator.ask("status"))["policies"]}
    return {name: policies[key][name] for name in ("version", "have", "lag", "stale", "unknown")}


@pytest.mark.parametrize("gone", [600.0])  # none of them is in Consul
async def test_a_change_comes_into_force_in_50_processes_and_each_says_so(
    servers: LocalServers, operator: Operator, tmp_path: Path
) -> None:
    async with views(servers.rabbitmq.url("agent"), PROCESSES, tmp_path / "views") as processes:
        for seconds in (1.0, 2.0, 3.0):
            await operator.apply("t", seconds)
            await wait_until(
                lambda s=seconds: all(v.resolve("t.x", "t", {}).timeout == s for v in processes),  # type: ignore[misc]
                20,
            )  # how long it takes is for bench/policies.py to say

        async def all_have() -> bool:
            found = [await counts(operator) for _ in range(4)]  # whichever replica answers
            return all((one["version"], one["have"]) == (3, PROCESSES) for one in found)

        await wait_until(all_have)


async def test_what_is_too_large_for_an_event_is_fetched(
    servers: LocalServers, operator: Operator, tmp_path: Path
) -> None:
    large = {"kind": "fallback", "name": "f", "spec": {"value": "x" * 60_000}}
    async with views(servers.rabbitmq.url("agent"), 2, tmp_path / "views") as processes:
        await operator.ask("apply_all", documents=[large, document("t")])
        for view in processes:
            await wait_until(lambda v=view: len(v.current.policies) == 2)  # type: ignore[misc]
        assert all(event.in_force is None for event in operator.events if event.name == "f")
        await operator.ask("delete", kind="fallback", name="f")
        for view in processes:
            await wait_until(lambda v=view: not v.resolve("t.x", "t", {}).policy_of(FallbackPolicy))  # type: ignore[misc]


async def test_who_lags_and_who_has_never_been_heard_is_shown(
    servers: LocalServers,
    operator: Operator,
    consul: OwnConsul,
    tmp_path: Path,
) -> None:
    await operator.apply("t", 3)
    old = (await operator.ask("list"))["digest"]
    await operator.apply("t", 4)
    settings = DispatcherLike(
        broker_url=servers.rabbitmq.url("agent"),
        consul_url=consul.url,
        data_dir=tmp_path / "f",
        instance="d1",
    )

    async def shown() -> dict[str, Any]:
        return {one["instance"]: one for one in (await operator.ask("status"))["processes"]}

    async with running(settings, Follower().build):
        report = PolicyApplied(
            at=datetime.now(UTC), service="dispatcher", instance="d2", digest=old
        )

        async def both() -> bool:
            await operator.plane.emit(report)  # it is not in Consul, and must not be gone meanwhile
            found = await shown()
            states = {name: one["state"] for name, one in found.items()}
            if states != {"d1": "current", "d2": "lagging"}:
                return False
            behind = found["d2"]["behind"]
            assert behind in ({"timeout/t": 1}, {"timeout/t": None})  # a replica may not know
            return await counts(operator) == {
                "version": 2, "have": 1, "lag": 1, "stale": 0, "unknown": 0,
            }  # fmt: skip

        await wait_until(both)

    async def dropped() -> bool:
        return not await shown()

    await wait_until(dropped, 30)


async def test_a_process_that_is_in_consul_and_says_nothing_is_unknown(
    servers: LocalServers, operator: Operator, consul: OwnConsul, tmp_path: Path
) -> None:
    await operator.apply("t", 3)
    settings = DispatcherLike(
        broker_url=servers.rabbitmq.url("agent"), consul_url=consul.url, data_dir=tmp_path / "f"
    )
    async with running(settings, nothing):

        async def unknown() -> bool:
            return (await counts(operator))["unknown"] == 1

        await wait_until(unknown)
