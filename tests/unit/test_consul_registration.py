"""What a process tells Consul of itself, with a Consul that only writes down what it hears."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from maniple.timings import Catalog, Timings
from maniple_runtime.consul.client import Consul, ConsulUnavailable
from maniple_runtime.consul.registration import Registration, TtlHeartbeat
from maniple_runtime.health import Health
from maniple_runtime.settings import ServiceSettings
from timed import timed
from waiting import hold_within, wait_until


class WritesDown(Consul):
    """Takes everything, unless it is `away`."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.passes = 0
        self.missed = 0
        self.looks = 0
        self.health = Health("service", "one")
        self.meta: Mapping[str, str] = {}
        self.away = False

    async def register_service(self, *_: Any, **described: Any) -> None:
        self.meta = described["meta"]

    async def pass_ttl(self, instance: str, note: str = "") -> bool:
        del instance, note
        if self.away:
            self.missed += 1
            raise ConsulUnavailable("away")
        self.passes += 1
        return True

    async def registered(self, instance: str) -> bool:
        del instance
        self.looks += 1
        if self.away:
            raise ConsulUnavailable("away")
        return True

    def is_ok(self) -> bool:
        return bool(self.health.snapshot()["components"]["consul"]["ok"])

    async def deregister_service(self, instance: str) -> None: ...


@asynccontextmanager
async def present(heartbeat: TtlHeartbeat) -> AsyncIterator[WritesDown]:
    consul = WritesDown()
    settings = timed(ServiceSettings(instance="one"), Timings(catalog=Catalog(refresh=0.02)))
    made = Registration(
        consul, settings, consul.health, port=1, life="abc", ttl_heartbeat=heartbeat
    )
    made.register()
    try:
        await wait_until(lambda: bool(consul.meta))
        yield consul
    finally:
        await made.deregister()
        consul.close()


async def test_each_beat_refreshes_once_and_nothing_else_does() -> None:
    heartbeat = TtlHeartbeat()
    heartbeat.expect()
    async with present(heartbeat) as consul:
        for turn in range(1, 4):
            heartbeat.beat()
            await wait_until(lambda turn=turn: consul.passes == turn)  # type: ignore[misc]  # bound now
        with pytest.raises(AssertionError):
            await hold_within(lambda: consul.passes > 3, 0.2)


async def test_a_beat_that_consul_did_not_take_is_not_used_later() -> None:
    heartbeat = TtlHeartbeat()
    heartbeat.expect()
    async with present(heartbeat) as consul:
        consul.away = True
        heartbeat.beat()
        await wait_until(lambda: consul.missed == 1)
        consul.away = False
        with pytest.raises(AssertionError):
            await hold_within(lambda: consul.passes > 0, 0.2)
        heartbeat.beat()
        await wait_until(lambda: consul.passes == 1)


async def test_without_a_pulse_health_decides_and_the_entry_names_the_life() -> None:
    async with present(TtlHeartbeat()) as consul:
        await wait_until(lambda: consul.passes > 2)
        assert consul.meta["life"] == "abc"


async def test_consul_is_away_until_it_has_answered_whether_there_are_beats_or_not() -> None:
    heartbeat = TtlHeartbeat()
    heartbeat.expect()
    async with present(heartbeat) as consul:
        heartbeat.beat()
        await wait_until(lambda: consul.passes == 1)
        consul.away = True
        heartbeat.beat()
        await wait_until(lambda: consul.missed == 1)
        await wait_until(lambda: not consul.is_ok())
        with pytest.raises(AssertionError):
            await hold_within(consul.is_ok, 0.2)
        consul.away = False
        looks = consul.looks
        await wait_until(consul.is_ok)
        assert (consul.passes, consul.looks > looks) == (1, True)


async def test_consul_is_asked_again_as_soon_as_ever_while_it_is_away() -> None:
    async with present(TtlHeartbeat()) as consul:
        await wait_until(lambda: consul.passes > 0)
        consul.away = True
        await wait_until(lambda: consul.missed > 20)
        consul.away = False
        before = consul.passes
        await wait_until(lambda: consul.passes > before)
