"""`maniple_dispatcher.limits.snapshot`: limits and breakers outlive every dispatcher."""

import asyncio
from collections import Counter
from typing import Any, cast

import pytest
import structlog
from structlog.testing import capture_logs

from maniple.clock import SYSTEM_CLOCK
from maniple_dispatcher.limits.breaker import BreakerState, Ends
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.limit import TokenBucketLimit
from maniple_dispatcher.limits.snapshot import LimitSnapshot
from maniple_dispatcher.limits.token_bucket import Terms
from maniple_dispatcher.wiring import hand_over
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from maniple_runtime.consul.catalog import CatalogEntry
from maniple_runtime.consul.client import Consul, ConsulRefused, ConsulUnavailable
from permits import ask_permit
from waiting import wait_until

ONE_AN_HOUR = TokenBucketLimit("rate_limit/hour", Terms(rate=1 / 3600, capacity=1.0))
NAMES = (b"lane", b"other")
SPEC = CircuitBreakerSpec(consecutive=3, open_for=600.0)


class Shelf:
    """Consul's key-value store, or one that is away."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.away = self.forbids_deletes = False
        self.deletes = 0
        self.indices: Counter[str] = Counter()

    async def kv_get(self, key: str) -> CatalogEntry | None:
        _, found = await self.kv_list(key)
        return found[0] if found else None

    async def kv_put(self, key: str, value: bytes, *, cas: int) -> bool:
        if cas != (self.indices[key] if key in self.kept else 0):
            return False
        self.kept[key] = value
        self.indices[key] += 1
        return True

    async def kv_delete(self, key: str, *, cas: int) -> bool:
        self.deletes += 1
        if self.forbids_deletes:
            raise ConsulRefused("403")
        if cas == self.indices[key]:
            del self.kept[key]
        return True

    async def kv_list(self, prefix: str) -> tuple[int, list[CatalogEntry]]:
        if self.away:
            raise ConsulUnavailable("away")
        keys = [key for key in self.kept if key.startswith(prefix)]
        return 1, [CatalogEntry(key, self.kept[key], self.indices[key]) for key in keys]


def coordinator(name: str) -> Coordinator:
    made = Coordinator(name, LeaseOwner(lambda _: SPEC), 0.0)
    made.peers.heard(name, 0.0, ready=True)
    return made


def memory(shelf: Shelf, instance: str, of: Coordinator) -> LimitSnapshot:
    consul = cast("Consul", shelf)
    log = structlog.get_logger()
    return LimitSnapshot(
        consul, "maniple/dev", instance, coordinator=of, log=log, clock=SYSTEM_CLOCK
    )


async def remember(shelf: Shelf, of: Coordinator) -> None:
    keeping = asyncio.create_task(memory(shelf, "one", of).keep())
    await wait_until(lambda: b"lane" in b"".join(shelf.kept.values()))
    keeping.cancel()


def passes(of: Coordinator, now: float) -> bool:
    said: list[Any] = []
    ask_permit(of, ONE_AN_HOUR, lambda ok, _seconds: said.append(ok), now)
    return bool(said[0])


async def test_what_one_owned_another_knows_that_never_met_it() -> None:
    shelf, first, second = Shelf(), coordinator("one"), coordinator("two")
    now = asyncio.get_running_loop().time()
    assert passes(first, now)
    first.owned.record_outcomes("lane", Ends(failed=3, failing=3), now)
    await remember(shelf, first)
    await memory(shelf, "two", second).load()
    assert not passes(second, now + 1.0)
    assert second.owned.breaker("lane")[0] is BreakerState.OPEN


async def test_a_consul_that_lets_nothing_be_deleted_is_read_once_and_written_to() -> None:
    shelf, of = Shelf(), coordinator("one")
    shelf.kept["maniple/dev/dispatchers/gone"] = b'{"at": 1}'
    shelf.forbids_deletes = True
    of.owned.bulkheads.recall(0.0, alone=True)
    of.owned.record_outcomes("lane", Ends(failed=3, failing=3), asyncio.get_running_loop().time())
    await remember(shelf, of)
    assert shelf.deletes == 1


async def test_who_owns_already_remembers_no_room_that_was_written_by_one_that_lives() -> None:
    shelf, first, second = Shelf(), coordinator("one"), coordinator("two")
    now = asyncio.get_running_loop().time()
    for of in (first, second):
        of.owned.bulkheads.recall(now, alone=True)
    reading = memory(shelf, "two", second)
    first.owned.bulkheads.take_slots("bulkhead/b", 5, 5, now)
    first.owned.record_outcomes("lane", Ends(failed=3, failing=3), now)
    await remember(shelf, first)
    assert b"bulkhead/b" in shelf.kept["maniple/dev/dispatchers/one"]
    await reading.load()
    assert second.owned.bulkheads.in_flight("bulkhead/b") == 0
    await memory(shelf, "two", second).load()  # as one that begins after that
    assert second.owned.bulkheads.in_flight("bulkhead/b") > 0


async def test_two_that_are_called_the_same_lose_nothing_of_each_other() -> None:
    shelf, now = Shelf(), asyncio.get_running_loop().time()
    keepers = []
    for lane in NAMES:
        of = coordinator(lane.decode())
        of.owned.record_outcomes(lane.decode(), Ends(failed=3, failing=3), now)
        keepers.append(asyncio.create_task(memory(shelf, "one", of).keep()))
    await wait_until(lambda: all(b'"%s"' % n in b"".join(shelf.kept.values()) for n in NAMES))
    for keeper in keepers:
        keeper.cancel()


async def test_without_consul_or_with_rubbish_in_it_a_dispatcher_begins_with_full_buckets() -> None:
    shelf, of = Shelf(), coordinator("one")
    shelf.kept["maniple/dev/dispatchers/odd"] = b"no json"
    await memory(shelf, "one", of).load()
    shelf.away = True
    await memory(shelf, "one", of).load()
    assert passes(of, asyncio.get_running_loop().time())


async def test_who_has_more_than_there_is_room_for_says_so_when_it_begins_and_when_it_ends() -> (
    None
):
    shelf, of = Shelf(), coordinator("one")
    keeper, now = memory(shelf, "one", of), asyncio.get_running_loop().time()
    lanes = tuple(f"{n}".ljust(128, "x") for n in range(1500))
    of.owned.bulkheads.take_slots("bulkhead/b", 10, 10, now)
    of.owned.bulkheads.sends("bulkhead/b", lanes, "one", now)
    with capture_logs() as said:
        for number in range(3):
            passes(of, now + number)  # there is something to write
            await keeper.write_now()
        of.owned.bulkheads.free_slots("bulkhead/b", 10)
        of.owned.bulkheads.forget_stale(lambda _: True, now + 60.0)
        await keeper.write_now()
    assert [(one["event"], one.get("lanes_of_rooms")) for one in said] == [
        ("too much to write down", 1),
        ("all written", None),
    ]
    assert b"rate_limit/hour" in b"".join(shelf.kept.values())


@pytest.mark.parametrize("fails", [ConsulUnavailable("away"), ValueError("a defect")])
async def test_a_stop_goes_on_whatever_writing_fails_for_and_says_so(
    fails: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, of = Shelf(), coordinator("one")

    async def kv_put(*_: object, **__: object) -> bool:
        raise fails

    monkeypatch.setattr(shelf, "kv_put", kv_put)
    assert passes(of, asyncio.get_running_loop().time())
    with capture_logs() as said:
        await memory(shelf, "one", of).write_now()
    assert [one["log_level"] in {"warning", "error"} for one in said] == [True]


async def test_who_stops_before_it_could_read_reads_first() -> None:
    shelf, first, second = Shelf(), coordinator("one"), coordinator("two")
    now = asyncio.get_running_loop().time()
    assert passes(first, now)
    await memory(shelf, "one", first).write_now()
    assert passes(second, now)
    await memory(shelf, "one", second).write_now()
    third = coordinator("three")
    await memory(shelf, "one", third).load()
    assert not passes(third, now)


async def test_a_dispatcher_writes_when_it_takes_nothing_more_and_still_owns_what_it_wrote() -> (
    None
):
    done: list[str] = []

    class Part:
        def __getattr__(self, name: str) -> Any:
            async def do() -> None:
                done.append(name)

            return do

    part: Any = Part()
    await hand_over(part, part, part)
    assert done == ["pause", "write_now", "leave"]
