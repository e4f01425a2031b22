"""Policies that decide, on a cluster of two dispatchers: limits, ways, fallbacks, mirrors."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from local_servers import SharedServers
from maniple.errors import ErrorCode
from maniple_cli.dev_cluster.cluster import ServiceProcess
from maniple_runtime.events import BreakerChanged
from maniple_runtime.metric_names import BREAKER_OPEN, TASKS_SUBMITTED
from outsider import Outsider
from policy_world import World, codes, most_at_once, policy_world
from recording import Recording, recording
from scraping import sample_name, scrape
from waiting import wait_until

OPEN_FOR = 1.0


@pytest.fixture(scope="module")
async def world(
    shared: SharedServers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("policies")
    async with policy_world(folder, shared.broker("policies")) as made:
        yield made


async def test_of_a_burst_over_its_limit_the_rest_is_told_when_to_come_again(world: World) -> None:
    spec = {"limit": 1, "period": 60, "burst": 10}
    async with world.policy("rate_limit", "burst", spec) as version:
        results = await world.ends("work.echo", range(40))
    assert codes(results) == {"succeeded": 10, "rate_limited": 30}
    assert all(r.policies == {"rate_limit/burst": version} for r in results)
    assert all(0 < (r.error.retry_after or 0) <= 60 for r in results if r.error)


async def test_a_limit_holds_for_all_dispatchers_together(world: World) -> None:
    def taken() -> list[float]:
        dispatchers = world.cluster.of_service("dispatcher")
        return [scrape([one]).get(sample_name(TASKS_SUBMITTED), 0.0) for one in dispatchers]

    before = taken()
    async with world.policy("rate_limit", "fleet", {"limit": 1, "period": 3600, "burst": 100}):
        rounds = [await world.ends("work.echo", range(40)) for _ in range(10)]
    # Each with a limit of its own would pass twice as many.
    assert sum((codes(one) for one in rounds), Counter()) == {"succeeded": 100, "rate_limited": 300}
    assert all(now > then + 50 for then, now in zip(before, taken(), strict=True))


async def test_each_tenant_has_a_limit_of_its_own(world: World) -> None:
    spec = {"limit": 1, "period": 60, "burst": 5, "per": ["tenant"]}
    async with world.policy("rate_limit", "tenants", spec):
        results = [await world.ends("work.echo", range(10), tenant=t) for t in ("one", "two")]
    assert [codes(r)["succeeded"] for r in results] == [5, 5]


async def test_an_array_over_the_limit_passes_in_part(world: World) -> None:
    url = world.cluster.ready_info()["broker_url"]
    async with world.policy("rate_limit", "array", {"limit": 1, "period": 60, "burst": 100}):
        with Outsider(url) as outsider:
            sent = outsider.send("work.echo", [{"payload": n} for n in range(150)])
            ended = await asyncio.to_thread(outsider.wait, sent, 150)
    found = Counter(r["error"]["code"] if r["error"] else r["status"] for r in ended)
    assert found == {"succeeded": 100, "rate_limited": 50}


async def test_a_leaky_bucket_that_shapes_lets_tasks_wait_for_their_turn(world: World) -> None:
    spec: dict[str, Any] = {"limit": 10, "algorithm": "leaky_bucket", "over": "shape"}
    async with world.policy("rate_limit", "shaped", spec):
        results = await world.ends("work.echo", range(16))
    assert codes(results) == {"succeeded": 16}
    came = min(r.submitted_at for r in results if r.submitted_at)
    after = sorted((r.started_at - came).total_seconds() for r in results if r.started_at)
    # The first may pass at once, with one more. A busy machine lets them wait longer, never less.
    turns = [(place - 1) / spec["limit"] for place in range(16)]
    assert all(waited > 0.95 * turn for turn, waited in zip(turns, after, strict=True)), after


async def test_what_is_over_a_limit_that_degrades_takes_another_variant(world: World) -> None:
    spec = {"limit": 1, "period": 60, "burst": 5, "over": "degrade", "variant": "lite"}
    async with world.policy("rate_limit", "degrading", spec):
        results = await world.ends("work.echo", range(20))
    assert codes(results) == {"succeeded": 20}
    assert Counter(r.lane for r in results) == {"work.echo": 5, "work.echo@lite": 15}


async def test_a_bulkhead_lets_no_more_run_at_once(world: World) -> None:
    async with world.policy("bulkhead", "ten", {"max_in_flight": 10, "over": "wait"}):
        results = await world.ends("work.wait", [0.1] * 40)
    assert codes(results) == {"succeeded": 40}
    assert most_at_once(results) <= 10


@contextmanager
def broken(world: World) -> Iterator[None]:
    """Have `work.fragile` fail and `work.held` run for as long as the block lasts."""
    world.broken.touch()
    try:
        yield
    finally:
        world.broken.unlink(missing_ok=True)


async def test_a_full_bulkhead_refuses_and_has_room_again(world: World) -> None:
    async with world.policy("bulkhead", "few", {"max_in_flight": 5}):
        with broken(world):
            sent = [world.client.submit("work.held", n) for n in range(20)]
            handles = await asyncio.gather(*sent)
            await wait_until(lambda: sum(handle.done for handle in handles) == 15)
            refused = [handle for handle in handles if handle.done]
        results = [await handle.outcome(timeout=60) for handle in handles]
        assert codes([await handle.outcome() for handle in refused]) == {"overloaded": 15}
        assert codes(results) == {"succeeded": 5, "overloaded": 15}

        async def has_room() -> bool:
            return codes(await world.ends("work.held", range(5))) == {"succeeded": 5}

        await wait_until(has_room)


def states(found: Recording) -> list[str]:
    """Return what the breaker of `work.fragile` has become, one after the other."""
    events = [event for event in found.events if isinstance(event, BreakerChanged)]
    return [event.state for event in events if event.lane == "work.fragile"]


async def refuses_all(world: World) -> bool:
    """Try ten tasks, and return whether the breaker lets none of them pass."""
    errors = [result.error for result in await world.ends("work.fragile", range(10))]
    refusals = [error for error in errors if error and error.code is ErrorCode.CIRCUIT_OPEN]
    assert all(0 < (refusal.retry_after or 0) <= OPEN_FOR for refusal in refusals)
    return len(refusals) == len(errors)


def knows_an_open_one(dispatcher: ServiceProcess) -> bool:
    """Whether a dispatcher shows a breaker that is not closed."""
    return scrape([dispatcher]).get(BREAKER_OPEN.name, 0.0) > 0


async def test_a_breaker_opens_for_all_and_closes_after_a_probe(world: World) -> None:
    spec = {"consecutive": 5, "open_for": OPEN_FOR}
    async with (
        world.policy("circuit_breaker", "fragile", spec, match={"capability": "work.fra*"}),
        recording(world.cluster.servers.broker_url("operator")) as found,
    ):
        with broken(world):
            assert codes(await world.ends("work.fragile", range(10)))["handler_error"] >= 5
            await wait_until(lambda: refuses_all(world))

        async def works() -> bool:
            return codes(await world.ends("work.fragile", range(10))) == {"succeeded": 10}

        await wait_until(works)
        await wait_until(lambda: states(found)[-1:] == ["closed"])
        assert states(found)[:2] == ["open", "half_open"]


async def test_only_probes_run_while_a_breaker_is_half_open(world: World) -> None:
    spec = {"consecutive": 3, "open_for": OPEN_FOR}
    match = {"capability": "work.fragile"}
    dispatchers = world.cluster.of_service("dispatcher")
    with broken(world):
        async with world.policy("circuit_breaker", "probes", spec, match=match):
            await wait_until(lambda: refuses_all(world))
            # A dispatcher that has not been told yet lets all pass.
            await wait_until(lambda: all(map(knows_an_open_one, dispatchers)))
            probes, begun = 0, time.monotonic()

            async def has_probed_twice() -> bool:
                nonlocal probes
                results = await world.ends("work.fragile", range(20))
                probes += codes(results)["handler_error"]
                return probes >= 2

            await wait_until(has_probed_twice)
            took = time.monotonic() - begun
    # One for each time that it was open for so long, however long a round takes; one may be due at
    # the start. One whose end is not heard for as long is given out again.
    assert probes <= took / OPEN_FOR + 1


async def test_a_refused_task_gets_a_fixed_value_in_its_place(world: World) -> None:
    async with (
        world.policy("rate_limit", "valued", {"limit": 1, "period": 60}) as limit,
        world.policy("fallback", "valued", {"value": {"cached": True}}) as fallback,
    ):
        results = await world.ends("work.echo", range(5))
    assert codes(results) == {"succeeded": 5}
    instead = [r for r in results if r.agent is None]
    assert {bytes(r.output) for r in instead} == {b'{"cached":true}'}
    assert len(instead) == 4
    versions = {"rate_limit/valued": limit, "fallback/valued": fallback}
    assert all(r.policies == versions for r in instead)


async def test_a_refused_task_gets_the_last_good_result_for_its_payload(world: World) -> None:
    limit = {"limit": 1, "period": 3600, "per": ["capability"]}

    async def all_are_known() -> bool:
        results = await world.ends("work.echo", [*range(5)] * 8)  # of both dispatchers
        instead = [r for r in results if r.agent is None and not r.error]
        assert all(r.policies["fallback/good"] == version for r in instead)
        assert {bytes(r.output) for r in instead} <= {b"0", b"1", b"2", b"3", b"4"}
        return len(instead) >= 39

    async with world.policy("fallback", "good", {"last_good": True}) as version:
        assert codes(await world.ends("work.echo", range(5))) == {"succeeded": 5}
        async with world.policy("rate_limit", "good", limit):
            await wait_until(all_are_known)
            others = [
                *await world.ends("work.echo", [99]),
                *await world.ends("work.echo", [1], tenant="acme"),
            ]
    assert codes(others) == {"rate_limited": 2}
    async with (  # what a dispatcher that starts finds in the records
        world.policy("rate_limit", "good", limit),
        world.policy("fallback", "good", {"last_good": True}) as version,
    ):
        await wait_until(all_are_known)


async def test_a_refused_task_runs_as_another_capability(world: World) -> None:
    limit = {"limit": 1, "period": 60}
    async with (
        world.policy("rate_limit", "other", limit, match={"capability": "work.echo"}),
        world.policy("fallback", "other", {"capability": "work.plain"}),
    ):
        results = await world.ends("work.echo", range(5))
    assert Counter(r.capability for r in results) == {"work.echo": 1, "work.plain": 4}
    assert codes(results) == {"succeeded": 5}


async def test_a_task_accepted_for_later_gets_its_result_later(world: World) -> None:
    url = world.cluster.ready_info()["broker_url"]
    async with (
        world.policy("rate_limit", "later", {"limit": 1, "period": 0.5}),
        world.policy("fallback", "later", {"accept": True}),
    ):
        with Outsider(url) as outsider:
            sent = [outsider.send("work.echo", {"payload": n}) for n in range(4)]
            told = [(await asyncio.to_thread(outsider.wait, one))[0] for one in sent]
            late = [one for one, reply in zip(sent, told, strict=True) if "status" not in reply]
            ends = [(await asyncio.to_thread(outsider.wait, one, 2))[1] for one in late]
    assert late  # how many depends on when they came
    assert {reply["status"] for reply in ends} == {"succeeded"}


async def test_a_route_divides_tasks_and_keeps_a_tenant_on_its_way(world: World) -> None:
    variants = [{"variant": "canary", "weight": 30}, {"weight": 70}]
    async with world.policy("route", "canary", {"variants": variants}):
        results = await world.ends("work.echo", range(400))
    lanes = Counter(r.lane for r in results)
    assert codes(results) == {"succeeded": 400}
    assert lanes["work.echo@canary"] == pytest.approx(120, abs=45)
    sticky = {"variants": variants, "sticky": "tenant"}
    async with world.policy("route", "canary", sticky):
        ways = [await world.ends("work.echo", range(10), tenant=t) for t in "abcdefgh"]
    assert all(len({r.lane for r in way}) == 1 for way in ways)
    assert len({way[0].lane for way in ways}) == 2


async def test_a_mirror_that_fails_does_not_show(world: World) -> None:
    match = {"capability": "work.echo"}
    async with world.policy("mirror", "all", {"variant": "shadow", "percent": 100}, match=match):
        results = await world.ends("work.echo", range(20))
    assert codes(results) == {"succeeded": 20}
    names = {f"{r.id}~mirror" for r in results}
    async with recording(world.cluster.servers.broker_url("operator")) as found:
        await wait_until(lambda: all(found.results(name) for name in names))
        ends = [found.results(name)[0] for name in names]
    assert {str(end.status) for end in ends} == {"failed"}
