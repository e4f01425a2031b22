"""A plain AMQP client with nothing of Maniple in it, as an external program."""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any, Self

import pika
from pika.adapters.blocking_connection import BlockingConnection

from waiting import PATIENCE

DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"


class Outsider:
    """Publishes to `maniple.tasks` and collects what arrives in its reply queue."""

    def __init__(self, url: str, *, direct: bool = False) -> None:
        """Use a queue of its own, or RabbitMQ's direct reply-to."""
        self._connection: Any = BlockingConnection(pika.URLParameters(url))
        self.channel: Any = self._connection.channel()
        self.channel.confirm_delivery()
        self.reply_to = (
            DIRECT_REPLY_TO
            if direct
            else self.channel.queue_declare("", exclusive=True).method.queue
        )
        self.replies: dict[str, list[dict[str, Any]]] = {}
        self.channel.basic_consume(self.reply_to, self._heard, auto_ack=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, key: str, body: Any, **properties: Any) -> str:
        """Publish a task (JSON, or bytes as they are); returns the correlation id."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        correlation_id = properties.pop("correlation_id", None) or str(uuid.uuid4())
        properties.setdefault("reply_to", self.reply_to)
        basic = pika.BasicProperties(correlation_id=correlation_id, delivery_mode=2, **properties)
        self.channel.basic_publish("maniple.tasks", key, raw, basic, mandatory=True)
        return correlation_id

    def wait(
        self, correlation_id: str, count: int = 1, seconds: float = 20.0
    ) -> list[dict[str, Any]]:
        """Return the first `count` results of one submission.

        Fails if they have not come in three times the `seconds` that an idle machine needs.
        """
        patience = PATIENCE * seconds
        deadline = time.monotonic() + patience
        while len(self.replies.get(correlation_id, [])) < count:
            assert time.monotonic() < deadline, (
                f"{len(self.replies.get(correlation_id, []))} of {count} results in {patience:g} s"
            )
            self._connection.process_data_events(time_limit=0.05)
        return self.replies[correlation_id]

    def ask(self, key: str, body: Any, **properties: Any) -> dict[str, Any]:
        """Publish one task and return its result."""
        return self.wait(self.send(key, body, **properties))[0]

    def _heard(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        result = json.loads(body)
        self.replies.setdefault(properties.correlation_id, []).append(result)


def find_in_stream(
    url: str, queue: str, matches: Callable[[Any, bytes], bool], seconds: float = 10.0
) -> tuple[Any, bytes]:
    """Return (properties, body) of the first message of a stream that matches, once it is there."""
    connection: Any = BlockingConnection(pika.URLParameters(url))
    channel: Any = connection.channel()
    channel.basic_qos(prefetch_count=100)
    found: list[tuple[Any, bytes]] = []

    def heard(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if matches(properties, body):
            found.append((properties, body))
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, heard, arguments={"x-stream-offset": "first"})
    deadline = time.monotonic() + PATIENCE * seconds
    while not found and time.monotonic() < deadline:
        connection.process_data_events(time_limit=0.05)
    connection.close()
    assert found, f"no such message came to {queue} within {PATIENCE * seconds:g} s"
    return found[0]
