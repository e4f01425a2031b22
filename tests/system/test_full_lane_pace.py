"""How fast others are beside a lane that is full, as a ratio of how fast they are without it."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from statistics import median

import pytest

from flat_out import carried
from full_lanes import ROOM, declare_full, delayed, flood, one_dispatcher, purge
from maniple import connect
from maniple.client import Client
from maniple_cli.dev_cluster.cluster import Cluster
from needs import CONSUL, RABBITMQ, need
from rabbitmqctl import Installed
from waiting import wait_until

FLOOD = 20_000  # each look at all of them takes the processor for a moment, as they come in step
RATE = 2000.0
SHARE = 0.3  # of what the machine carries flat out, where that is less
SECONDS = 4.0
ROUNDS = 3  # alone and beside, in turns: what else the machine does is in both
LOOKS = 5  # at 0.1, 0.25, 0.5, 1 and 2 s; from then on they become seldom
STILL = 2.0  # seconds without any that is sent to wait

pytestmark = pytest.mark.timeout(300)


async def pace(client: Client, rate: float) -> tuple[float, float]:
    """Submit at a fixed rate; return the median latency and the time of the last result, in s."""
    started = time.perf_counter()

    async def due() -> AsyncIterator[int]:
        for number in range(int(rate * SECONDS)):
            early = started + number / rate - time.perf_counter()
            if early > 0:
                await asyncio.sleep(early)
            yield number

    latencies = [
        time.perf_counter() - started - doubled / 2 / rate
        async for doubled in client.map("test.double", due(), window=100_000, ordered=False)
    ]
    assert len(latencies) == int(rate * SECONDS)
    return median(latencies), time.perf_counter() - started


async def emptied(one: Cluster) -> None:
    """Throw away what waits, until a dispatcher sends nothing to wait any more."""
    broker = Installed(one.servers)

    async def still() -> bool:
        looked = delayed(one)
        await purge(broker, one.servers.environment)
        await asyncio.sleep(STILL)
        return delayed(one) == looked

    await wait_until(still, 60)


async def test_others_are_as_fast_beside_a_full_lane() -> None:
    need(RABBITMQ, CONSUL)
    async with Cluster(one_dispatcher()) as one:
        await compare(one)


async def compare(one: Cluster) -> None:
    info = one.ready_info()
    declare_full(one.servers.broker_url("agent"), "test.full")
    async with connect(info["client_url"]) as client:
        rate = min(RATE, SHARE * await carried(client, "test.double", int(RATE * SECONDS)))
        rounds = []
        for _ in range(ROUNDS):
            alone, before = await pace(client, rate), delayed(one)
            await asyncio.to_thread(
                flood, info["broker_url"], "test.full", messages=FLOOD // 100, each=100
            )
            # It takes the processor while it comes, and is looked at several times at first.
            often = before + LOOKS * (FLOOD - 2 * ROOM)
            await wait_until(lambda: delayed(one) >= often, 60)  # noqa: B023
            beside, looked = await pace(client, rate), delayed(one)
            await wait_until(lambda: delayed(one) > looked)  # noqa: B023 - it is not over
            await emptied(one)
            rounds.append((*alone, *beside))
    shown = "".join("{:.3f} {:.2f} {:.3f} {:.2f}\n".format(*one) for one in rounds)
    sys.stdout.write(f"{rate:.0f} tasks/s: latency, last, and both beside a full lane\n{shown}")
    # A latency has two parts: what its own way takes, and for how long others have the processor.
    assert median(beside - 2 * alone for alone, _, beside, _ in rounds) < 0.2, shown
    assert median(beside / alone for _, alone, _, beside in rounds) < 1.25, shown
