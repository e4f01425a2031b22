"""Maniple's two ways in: the SDK's `map`, and one task per message from a plain AMQP client."""

import json
import time
import uuid
from typing import Any

import pika
from bench.handlers import CAPABILITY

from maniple.client import Client

REPLY_TO = "amq.rabbitmq.reply-to"


async def map_all(client: Client, count: int) -> float:
    """Submit tasks with `client.map`, check every result, and return tasks per second."""
    started = time.perf_counter()
    expected = 0
    async for output in client.map(CAPABILITY, range(count)):
        if output != expected:
            raise RuntimeError(f"Maniple returned {output!r} for {expected}")
        expected += 1
    if expected != count:
        raise RuntimeError(f"Maniple returned {expected} of {count} results")
    return count / (time.perf_counter() - started)


class PlainClient:
    """An external program: pika, one JSON object per message, results by direct reply-to."""

    def __init__(self, url: str) -> None:
        """Connect as an outside user."""
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._results: dict[str, bytes] = {}
        self._channel.basic_consume(REPLY_TO, self._on_result, auto_ack=True)

    def submit(self, count: int) -> float:
        """Publish tasks one by one, collect every result, and return tasks per second."""
        self._results.clear()
        started = time.perf_counter()
        pending = [self._publish(number) for number in range(count)]
        while len(self._results) < count:
            self._connection.process_data_events(time_limit=1)
        for number, task_id in enumerate(pending):
            if json.loads(self._results[task_id])["output"] != number:
                raise RuntimeError(f"Maniple returned something else for {number}")
        return count / (time.perf_counter() - started)

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def _publish(self, payload: int) -> str:
        task_id = str(uuid.uuid4())
        properties = pika.BasicProperties(
            message_id=task_id, correlation_id=task_id, reply_to=REPLY_TO, delivery_mode=2
        )
        body = json.dumps({"payload": payload}).encode()
        self._channel.basic_publish("maniple.tasks", CAPABILITY, body, properties)
        return task_id

    def _on_result(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        self._results[properties.correlation_id] = body
