"""Who is present, as the policy service asks Consul, and how often it does."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client import Gauge
from structlog.testing import capture_logs

from maniple_policies import PolicySet
from maniple_policy import queries
from maniple_policy.domain.replicas import ReplicaState
from maniple_policy.live_processes import LiveProcesses
from maniple_policy.queries import PolicyQueries, count
from maniple_policy.store import Store
from maniple_runtime import metric_names
from maniple_runtime.consul.catalog import Instance
from maniple_runtime.consul.client import Consul, ConsulUnavailable
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.telemetry import Metrics
from waiting import wait_until

NO_PLANE = cast("ControlPlane", None)  # what is asked here needs none


class Catalog(Consul):
    """Lists `instances` of every service, or raises `error`; remembers who was asked for."""

    def __init__(self, *ids: str) -> None:
        super().__init__("http://127.0.0.1:1")
        self.ids = ids
        self.asked: list[str] = []
        self.error: Exception | None = None

    async def instances(self, service: str) -> list[Instance]:
        self.asked.append(service)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return [
            Instance(one, service, "node", "127.0.0.1", 1, "passing", {}, ("maniple", "dev"))
            for one in self.ids
        ]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def value_of(gauge: Gauge) -> float:
    (metric,) = gauge.collect()
    return metric.samples[0].value


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_one_look_serves_all_who_ask_about_the_same_time(clock: Clock) -> None:
    consul = Catalog("d1")
    processes = LiveProcesses(NO_PLANE, consul, "dev", clock)
    seen = await asyncio.gather(*(processes.present({"dispatcher"}, 2) for _ in range(10)))
    assert {id(one) for one in seen} == {id(seen[0])}
    assert seen[0].processes == {"d1": "dispatcher"}
    clock.now = 9.0
    assert await processes.present({"dispatcher"}, 10) is seen[0]
    assert consul.asked == ["maniple-dispatcher"]
    clock.now = 11.0
    consul.ids = ()
    assert (await processes.present({"dispatcher"}, 10)).processes == {}
    assert len(consul.asked) == 2


async def test_a_service_that_the_last_look_left_out_is_looked_for(clock: Clock) -> None:
    consul = Catalog("x")
    processes = LiveProcesses(NO_PLANE, consul, "dev", clock)
    await processes.present({"dispatcher"}, 10)
    await processes.present({"dispatcher", "agent"}, 10)
    await processes.present({"agent"}, 10)
    assert consul.asked == ["maniple-dispatcher", "maniple-agent", "maniple-dispatcher"]


async def test_a_consul_that_is_away_is_told_of_once(clock: Clock) -> None:
    consul = Catalog("d1")
    consul.error = ConsulUnavailable("Consul: away")
    processes = LiveProcesses(NO_PLANE, consul, "dev", clock)
    with capture_logs() as lines:
        for clock.now in (1.0, 2.0, 3.0):
            assert (await processes.present({"dispatcher"}, 0.5)).processes is None
    assert [line["reason"] for line in lines if line["log_level"] == "warning"] == ["Consul: away"]
    consul.error = None
    clock.now = 4.0
    assert (await processes.present({"dispatcher"}, 0.5)).processes == {"d1": "dispatcher"}


async def test_counting_survives_an_answer_that_nobody_expects(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PRESENT_FOR", 0.01)
    consul, metrics = Catalog("d1", "d2"), Metrics()
    consul.error = KeyError("Checks")
    store = cast(
        "Store", SimpleNamespace(known=True, policies=PolicySet(), look_ahead=lambda: None)
    )
    counted = PolicyQueries(store, LiveProcesses(NO_PLANE, consul, "dev", clock), clock)
    with capture_logs() as lines:
        counting = asyncio.create_task(count(counted, metrics))
        await wait_until(lambda: any("not counted" in line["event"] for line in lines))
        consul.error = None
        unknown = metrics.gauge(metric_names.POLICY_PROCESSES, ReplicaState.UNKNOWN.value)
        await wait_until(lambda: value_of(unknown) == len(consul.ids))
        counting.cancel()
