"""What one hop over the broker costs: FastStream beside `maniple.amqp`, on the same queue.

`uv run python -m bench.hops`: bundles of 1 and of 128 tasks are published with confirms to a
quorum queue of a broker of our own, consumed, decoded and acknowledged, all in this process.
Interleaved rounds, medians; µs of processor time for a bundle do not mind what else the machine
does, bundles a second do. The last line is JSON. docs/decisions/0002 stands on it.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop
from bench.codec import bundle
from faststream import AckPolicy
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitMessage, RabbitQueue

from maniple import codec
from maniple.amqp import (
    AmqpConnection,
    Connection,
    Consumer,
    Delivery,
    Outgoing,
    Publisher,
    declare_queue,
)
from maniple.amqp.batching import MAX_ITEMS
from maniple.identifiers import new_id
from maniple.messages import ENVELOPES_TYPE
from maniple.topology import Queue
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer

QUEUE = "maniple.bench.hops"
PREFETCH = 256
WINDOW = 64
BUNDLES = {1: 3000, MAX_ITEMS: 600}
ROUNDS = 5

Publish = Callable[[bytes], Awaitable[object]]


class Arrivals:
    """Counts what was consumed and tells when all of it was."""

    def __init__(self) -> None:
        """Expect nothing yet."""
        self._missing = 0
        self.all_here = asyncio.Event()

    def expect(self, count: int) -> None:
        """Begin to wait for `count` bundles."""
        self._missing = count
        self.all_here.clear()

    def one(self, body: bytes) -> None:
        """Take one bundle."""
        codec.decode_envelopes(body)
        self._missing -= 1
        if self._missing == 0:
            self.all_here.set()


@contextlib.asynccontextmanager
async def over_transport(url: str, arrivals: Arrivals) -> AsyncIterator[Publish]:
    """Publish and consume as dispatchers and agents do."""

    def heard(delivery: Delivery) -> None:
        arrivals.one(delivery.body)
        delivery.ack()

    async def prepare(connection: Connection) -> None:
        channel = await connection.channel()
        await declare_queue(channel, Queue(QUEUE))
        await channel.close()

    outlet = AmqpConnection(url, name="bench.publish", prepare=prepare)
    intake = AmqpConnection(url, name="bench.consume")
    publisher = Publisher(outlet)
    consumer = Consumer(QUEUE, heard, prefetch=PREFETCH)
    intake.consume(consumer)
    await outlet.start(10)
    await intake.start(10)

    async def publish(body: bytes) -> None:
        await publisher.publish(Outgoing("", QUEUE, body, message_id=new_id(), type=ENVELOPES_TYPE))

    yield publish
    await consumer.flush()
    await intake.close()
    await outlet.close()


@contextlib.asynccontextmanager
async def over_faststream(url: str, arrivals: Arrivals) -> AsyncIterator[Publish]:
    """Do the same the leanest way that FastStream offers: raw bytes, no types, our own acks."""
    queue = RabbitQueue(QUEUE, queue_type=QueueType.QUORUM, durable=True)
    # Two brokers, so that a held-back publisher cannot hold back acknowledgements.
    outlet = _faststream(url, Channel(on_return_raises=True))
    intake = _faststream(url, Channel(prefetch_count=PREFETCH))

    async def heard(message: RabbitMessage) -> None:
        arrivals.one(message.body)
        await message.ack()

    subscriber = intake.subscriber(queue, ack_policy=AckPolicy.MANUAL, no_reply=True)
    subscriber(heard)
    await outlet.start()
    await intake.start()

    async def publish(body: bytes) -> None:
        await outlet.publish(
            body,
            queue=queue,
            persist=True,
            mandatory=True,
            message_id=new_id(),
            message_type=ENVELOPES_TYPE,
            content_type="application/json",
        )

    yield publish
    await intake.stop()
    await outlet.stop()


def _faststream(url: str, channel: Channel) -> RabbitBroker:
    async def undecoded(message: RabbitMessage) -> RabbitMessage:
        return message

    return RabbitBroker(
        url,
        default_channel=channel,
        decoder=undecoded,
        apply_types=False,
        logger=logging.getLogger("faststream"),
        log_level=logging.DEBUG,
    )


WAYS = {"faststream": over_faststream, "transport": over_transport}


async def measured(publish: Publish, arrivals: Arrivals, body: bytes, count: int) -> list[float]:
    """Return (bundles a second, µs of processor time a bundle) of `count` bundles."""
    window = asyncio.Semaphore(WINDOW)

    async def one() -> None:
        async with window:
            await publish(body)

    gc.collect()
    arrivals.expect(count)
    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one() for _ in range(count)), arrivals.all_here.wait())
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    return [count / seconds, processor / count * 1e6]


async def run(url: str, rounds: int) -> dict[str, dict[str, float]]:
    """Measure both ways in turn with both sizes; return medians by `<way>_<tasks>`."""
    full = bundle()
    single = full[: full.index(b"},{") + 1] + b"]"
    bodies = {1: single, MAX_ITEMS: full}
    found: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        for way, open_ in WAYS.items():
            arrivals = Arrivals()
            async with open_(url, arrivals) as publish:
                for tasks, count in BUNDLES.items():
                    figures = await measured(publish, arrivals, bodies[tasks], count)
                    found.setdefault(f"{way}_{tasks}", []).append(figures)
    return {
        name: {
            "bundles_per_second": round(statistics.median(f[0] for f in figures)),
            "cpu_us_per_bundle": round(statistics.median(f[1] for f in figures), 1),
        }
        for name, figures in found.items()
    }


async def main() -> None:
    """Start a broker, measure, print the medians as lines and, last, ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="maniple-hops-", ignore_cleanup_errors=True) as folder:
        broker = RabbitMQServer(Path(folder))
        await broker.start()
        try:
            found = await run(broker.url("dispatcher"), rounds)
        finally:
            await broker.stop(0.5)
    for name, figures in found.items():
        print(name, figures)
    print(json.dumps({**found, **ratios(found)}))


def ratios(found: Mapping[str, Any]) -> dict[str, float]:
    """Return how much more FastStream uses, and how much faster the transport is, by size."""
    result = {}
    for tasks in BUNDLES:
        lean, rich = found[f"transport_{tasks}"], found[f"faststream_{tasks}"]
        result[f"cpu_ratio_{tasks}"] = rich["cpu_us_per_bundle"] / lean["cpu_us_per_bundle"]
        result[f"speed_ratio_{tasks}"] = lean["bundles_per_second"] / rich["bundles_per_second"]
    return {name: round(value, 2) for name, value in result.items()}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
