"""What a process says while it is its bytes that keep it from taking more."""

import asyncio
from typing import Any

import pytest
from prometheus_client import generate_latest

from channels import until_idle
from maniple.amqp import Delivery, consumer
from maniple.topology import RETRY_QUEUE, SUBMIT, UNROUTED_QUEUE
from maniple_runtime.consul.client import Consul
from maniple_runtime.health import Health
from maniple_runtime.hotpath import HotPath
from maniple_runtime.runtime import Runtime
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.telemetry import Metrics, get_logger
from sending_queue import SendingQueue

MIB = 1024**2


def runtime() -> Runtime:
    return Runtime(
        settings=ServiceSettings(instance="one"),
        health=Health("service", "one"),
        metrics=Metrics(),
        consul=Consul("http://127.0.0.1:1"),
        log=get_logger("maniple.test"),
        stopping=asyncio.Event(),
    )


def shown(on: Runtime, metric: str) -> float:
    text = generate_latest(on.metrics.registry).decode()
    (value,) = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{metric} ")]
    return float(value)


async def test_a_process_says_which_queues_it_takes_nothing_from_for_the_bytes_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer, "QUIET", 0.0)
    on = runtime()
    hot = HotPath(on, held_bytes=4 * MIB)
    held: list[Delivery] = []
    for queue, bodies in ((SUBMIT, [b"x" * MIB] * 9), (RETRY_QUEUE, [b"y"]), (UNROUTED_QUEUE, [])):
        connection: Any = SendingQueue(*bodies)
        await hot.consume(queue, held.append, 9).open(connection)
    await until_idle()
    hot.intake._tick()
    assert on.health.components == {"broker.bytes": False}
    detail = on.health.snapshot()["components"]["broker.bytes"]["detail"]
    assert detail == (
        f"{9 * MIB + 1} bytes of messages are held (MANIPLE_HELD_BYTES: {4 * MIB}): nothing more "
        "is taken from maniple.submit until half is settled"
    )
    assert on.health.sound  # it does all that it can
    assert shown(on, "maniple_held_bytes") == 9 * MIB + 1
    assert shown(on, "maniple_queues_held_back") == 1
    for delivery in held:
        delivery.ack()
    await until_idle()
    hot.intake._tick()
    assert on.health.components == {"broker.bytes": True}
    assert (shown(on, "maniple_held_bytes"), shown(on, "maniple_queues_held_back")) == (0, 0)
