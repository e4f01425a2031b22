"""Whether a rate limit lets through what it says, in clusters of one, two and four dispatchers.

`uv run python -m bench.limits`: a policy `rate_limit` of 1,000 a second over more than that. The
load is `even` (messages of 8 tasks, for all dispatchers alike), `lopsided` (all but the first get
few) and `array` (160 tasks in one message). What passed is counted by when it came, from one
refusal to a later one: at both the bucket was empty, so that what it keeps for a burst does not
count. A machine that was too busy for more than the limit to come says nothing about it. Then one
task in ten seconds, while first one and then the other of two dispatchers is killed. The last line
is JSON.
"""

import argparse
import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.handlers import CAPABILITY

from maniple.cli.control import ask_over, operator_plane
from maniple.cli.output import run
from maniple.codec import encode
from maniple.identifiers import new_id
from maniple.local.cluster import Cluster, ClusterOptions
from maniple.messages import TASK_TYPE, Result, Status
from maniple.records import Batch, RecordReader
from maniple.topology import TASKS
from maniple.transport import Link, Outgoing, Publisher

LIMIT = 1000.0
OFFERED = 1600.0
BOUND = 3.0  # percent
WARM_UP = 3.0
ENOUGH = 1.1 * LIMIT
PATIENCE = 120.0
TICK = 0.005
SIZES = {"even": 8, "lopsided": 8, "array": 160, "single": 1}
SLOW_PERIOD = 10.0
SLOW_OFFERED = 50.0
SLOW_SECONDS = 60.0
KILLS = (12.0, 36.0)


class Bench:
    """A cluster under load; `ends` are the results so far."""

    def __init__(self, cluster: Cluster, publisher: Publisher) -> None:
        self.cluster = cluster
        self.ends: list[Result] = []
        self._publisher = publisher
        self._news = asyncio.Event()

    async def hear(self, batch: Batch) -> None:
        """Take records."""
        self.ends += [e.record for e in batch.entries if isinstance(e.record, Result)]
        self._news.set()

    async def put_in_force(self, spec: dict[str, Any]) -> None:
        """Have a new limit in force: one that is full."""
        document = {"kind": "rate_limit", "name": f"bench-{new_id()}", "spec": spec}
        async with operator_plane(self.cluster.ready_info()["operator_url"]) as plane:
            for one in (await ask_over(plane, "policy", "policy.list", {}))["policies"]:
                name = {"kind": "rate_limit", "name": one["policy"]["name"]}
                await ask_over(plane, "policy", "policy.delete", name)
            await ask_over(plane, "policy", "policy.apply", {"document": document})
        await asyncio.sleep(1.0)

    async def load(self, rate: float, seconds: float, way: str) -> int:
        """Submit `rate` tasks a second, and return how many when all have ended."""
        loop = asyncio.get_running_loop()
        before, begun, sent = len(self.ends), loop.time(), 0
        body = [{"payload": number} for number in range(SIZES[way])]
        async with asyncio.TaskGroup() as sending:
            while (elapsed := loop.time() - begun) < seconds:
                while sent + len(body) <= elapsed * rate:
                    sent += len(body)
                    sending.create_task(self._send(body))
                await asyncio.sleep(TICK)
        async with asyncio.timeout(PATIENCE):
            while len(self.ends) < before + sent:
                self._news.clear()
                await self._news.wait()
        return sent

    async def _send(self, body: Any) -> None:
        message = Outgoing(TASKS.name, CAPABILITY, encode(body), new_id(), TASK_TYPE)
        await self._publisher.publish(message)


@asynccontextmanager
async def bench(dispatchers: int, *, lopsided: bool = False) -> AsyncIterator[Bench]:
    """Start a cluster; in a `lopsided` one all dispatchers but the first take one at a time."""
    slow = {f"dispatcher-{n}": {"MANIPLE_PREFETCH": "1"} for n in range(2, dispatchers + 1)}
    options = ClusterOptions(
        agents=1,
        dispatchers=dispatchers,
        registries=1,
        handlers=("bench.handlers",),
        env=slow if lopsided else {},
    )
    async with Cluster(options) as cluster:
        info = cluster.ready_info()
        outside = Link(info["broker_url"], name="bench-submit")
        records = Link(info["operator_url"], name="bench-records")
        made = Bench(cluster, Publisher(outside))
        reader = RecordReader(records, made.hear)
        await outside.start()
        await records.start()
        reading = asyncio.create_task(reader.run())
        try:
            yield made
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await records.close()
            await outside.close()


def passed(ends: Iterable[Result]) -> int:
    """Count those that were not refused."""
    return sum(end.status is Status.SUCCEEDED for end in ends)


async def measure_rate(made: Bench, way: str, seconds: float) -> tuple[float, float]:
    """Return how many passed in a second, and how many came."""
    await made.put_in_force({"limit": LIMIT})
    begun, before = datetime.now(UTC), len(made.ends)
    await made.load(OFFERED, WARM_UP + seconds + 1.0, way)
    start = begun + timedelta(seconds=WARM_UP)
    stop = start + timedelta(seconds=seconds)
    came = [(e.dispatched_at, e) for e in made.ends[before:] if e.dispatched_at]
    refused = [at for at, end in came if start <= at < stop and end.error]
    if not refused:
        return 0.0, 0.0
    first, last = min(refused), max(refused)
    between = [end for at, end in came if first < at <= last]
    took = (last - first).total_seconds() or seconds
    return passed(between) / took, len(between) / took


async def measure_slow(made: Bench) -> int:
    """Return how many passed a limit of one in ten seconds while its owners were killed."""
    await made.put_in_force({"limit": 1, "period": SLOW_PERIOD})
    before = len(made.ends)
    async with asyncio.TaskGroup() as group:
        for process, after in zip(made.cluster.of_service("dispatcher"), KILLS, strict=True):
            group.create_task(_kill(process.pid, after))
        group.create_task(made.load(SLOW_OFFERED, SLOW_SECONDS, "single"))
    return passed(made.ends[before:])


async def _kill(pid: int, after: float) -> None:
    await asyncio.sleep(after)
    os.kill(pid, signal.SIGKILL)


async def measure(sizes: list[int], seconds: float, *, slow: bool) -> dict[str, Any]:
    """Measure all, and print each figure when it is known."""
    rates: dict[str, float] = {}
    for size in sizes:
        ways = {False: ("even", "array"), True: ("lopsided",)}
        for lopsided in (False, True) if size > 1 else (False,):
            async with bench(size, lopsided=lopsided) as made:
                for way in ways[lopsided]:
                    rate, came = await measure_rate(made, way, seconds)
                    off = f"{(rate / LIMIT - 1) * 100:+5.1f} %"
                    if came >= ENOUGH:
                        rates[f"{size} {way}"] = round(rate, 1)
                    else:
                        off = "too few came"
                    shown = f"{rate:7.1f} of {came:7.1f} a second  {off}"
                    print(f"{size} dispatchers  {way:<9} {shown}", flush=True)
    found: dict[str, Any] = {"limit": LIMIT, "offered": OFFERED, "rates": rates}
    if slow:
        async with bench(2) as made:
            found["slow"] = await measure_slow(made)
        print(f"one in {SLOW_PERIOD:g} s, owners killed: {found['slow']} in {SLOW_SECONDS:g} s")
    return found


def main() -> None:
    """Print a table and, last, JSON; exit with 1 where a rate is unknown or off by 3 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dispatchers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--skip-slow", action="store_true", help="no dispatchers are killed")
    options = parser.parse_args()
    found = run(measure(options.dispatchers, options.seconds, slow=not options.skip_slow))
    print(json.dumps(found))
    worst = max((abs(rate / LIMIT - 1) * 100 for rate in found["rates"].values()), default=100.0)
    most = 1 + SLOW_SECONDS / SLOW_PERIOD
    wanted = sum(3 if size > 1 else 2 for size in options.dispatchers)
    is_whole = len(found["rates"]) == wanted and found.get("slow", 1) >= 1
    raise SystemExit(not is_whole or worst > BOUND or found.get("slow", 1) > most)


if __name__ == "__main__":
    main()
