"""Two programs with the SDK and one without submit the campaign's tasks."""

import asyncio
import contextlib
import json
import queue
import threading
import time
from typing import Any, Self

import pika
from pika.adapters.blocking_connection import BlockingConnection
from pika.exceptions import AMQPError

from maniple.client import Client
from maniple.codec import decode_value
from maniple.errors import BrokerUnavailable, ManipleError, PublishRefused
from system.campaign.client_history import ClientHistory, Told
from system.campaign.workload import PlannedTask

PAUSE = 0.5


async def submit(client: Client, task: PlannedTask, client_history: ClientHistory) -> None:
    """Submit a task until the broker has it, and wait for its result for as long as it takes."""
    while True:
        try:
            handle = await client.submit(
                task.capability, task.seconds, id=task.id, affinity=task.affinity, ttl=task.ttl
            )
        except (BrokerUnavailable, PublishRefused):
            await asyncio.sleep(PAUSE)  # it may have arrived nevertheless: the same id again
            continue
        break
    client_history.confirm(task.id)
    with contextlib.suppress(ManipleError):  # the client was closed: nobody was told
        result = await handle.outcome()
        client_history.tell(task.id, Told(result.status.value, decode_value(result.output)))


class PlainPublisher:
    """A plain AMQP client in a thread: a durable reply queue, confirms, and another try.

    What an external program does that wants to lose nothing.
    """

    def __init__(self, url: str, reply_to: str, client_history: ClientHistory) -> None:
        self._url = url
        self._reply_to = reply_to
        self._client_history = client_history
        self._tasks: queue.SimpleQueue[PlannedTask] = queue.SimpleQueue()
        self._unconfirmed: PlannedTask | None = None
        self._stopping = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="plain publisher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(10)

    def submit(self, task: PlannedTask) -> None:
        """Have a task published soon."""
        self._tasks.put(task)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                self._serve()
            except (AMQPError, OSError):
                time.sleep(PAUSE)

    def _serve(self) -> None:
        connection: Any  # its stubs take whole seconds only
        with BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.queue_declare(self._reply_to, durable=True)
            channel.basic_consume(self._reply_to, self._heard)
            while not self._stopping.is_set():
                self._publish_what_is_due(channel)
                connection.process_data_events(time_limit=0.02)
            channel.queue_delete(self._reply_to)

    def _publish_what_is_due(self, channel: Any) -> None:
        while self._unconfirmed or not self._tasks.empty():
            # Kept until it is confirmed: over a lost connection it is published again.
            task = self._unconfirmed = self._unconfirmed or self._tasks.get()
            properties = pika.BasicProperties(
                message_id=task.id, correlation_id=task.id, reply_to=self._reply_to, delivery_mode=2
            )
            said = {"payload": task.seconds, "affinity": task.affinity, "ttl": task.ttl}
            body = json.dumps({key: value for key, value in said.items() if value is not None})
            channel.basic_publish(
                "maniple.tasks", task.capability, body.encode(), properties, mandatory=True
            )
            self._unconfirmed = None
            self._loop.call_soon_threadsafe(self._client_history.confirm, task.id)

    def _heard(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        result = json.loads(body)
        told = Told(result["status"], result.get("output"))
        self._loop.call_soon_threadsafe(self._client_history.tell, result["id"], told)
        channel.basic_ack(method.delivery_tag)
