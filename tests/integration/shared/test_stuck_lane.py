"""A lane that confirms nothing for longer than a connection may be without confirms."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingConnection

from local_servers import LocalServers
from maniple import topology
from maniple.amqp import Publisher
from maniple.codec import decode_envelopes
from maniple.identifiers import new_id
from maniple.timings import Amqp, Queues, Timings
from maniple_dispatcher.settings import DispatcherSettings
from maniple_dispatcher.wiring import build
from maniple_runtime.metric_names import RECONNECTS
from maniple_runtime.process import running
from rabbitmqctl import Installed, suspended
from scraping import counted
from timed import timed
from waiting import wait_until

CONFIRM_TIMEOUT = 3.0
TASKS = 40


class Lanes:
    """What a dispatcher brings to the lanes of two capabilities that no agent serves."""

    def __init__(self, servers: LocalServers) -> None:
        urls = [servers.rabbitmq.url(role) for role in ("agent", "outside")]
        self._connections: list[Any] = [BlockingConnection(pika.URLParameters(url)) for url in urls]
        self.channel, self._submit = (connection.channel() for connection in self._connections)
        self._submit.confirm_delivery()
        self.stuck, self.well = f"stuck.{new_id()}", f"well.{new_id()}"
        self.seen: dict[str, Counter[str]] = {self.stuck: Counter(), self.well: Counter()}
        for name in self.seen:
            queue, _ = topology.lane_queues(name)
            self.channel.queue_declare(queue.name, durable=True, arguments={**queue.all_arguments})
            self.channel.queue_bind(queue.name, *queue.bindings[0])

    def submit(self, capability: str, count: int) -> None:
        """Submit tasks that are named by their numbers, one a message."""
        for number in range(count):
            body = json.dumps({"id": str(number)})
            self._submit.basic_publish("maniple.tasks", capability, body)

    def has(self, capability: str, count: int) -> bool:
        """Take what has come, and tell whether that is so many tasks, each once or more."""
        queue, _ = topology.lane_queues(capability)
        while (message := self.channel.basic_get(queue.name, auto_ack=True))[0]:
            self.seen[capability].update(one.id for one in decode_envelopes(message[2]))
        return self.seen[capability].keys() == {str(number) for number in range(count)}

    def close(self) -> None:
        for name in self.seen:
            self.channel.queue_delete(topology.lane_queues(name)[0].name)
        for connection in self._connections:
            connection.close()


class Seconds:
    """Counts those for which publishers wait for confirms, as they do it themselves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._counts: Counter[int] = Counter()
        overdue = Publisher.overdue

        def counted(one: Publisher) -> bool:
            self._counts[id(one)] += 1
            return overdue(one)

        monkeypatch.setattr(Publisher, "overdue", counted)

    def have_been(self, count: float) -> Callable[[], bool]:
        """Return a condition: so many more than now, for each publisher."""
        wanted = {one: seconds + count for one, seconds in self._counts.items()}
        return lambda: all(self._counts[one] >= seconds for one, seconds in wanted.items())


async def test_a_lane_that_stays_stuck_costs_no_connection_and_loses_nothing(
    servers: LocalServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = Seconds(monkeypatch)
    settings = DispatcherSettings.model_validate(
        {
            "broker_url": servers.rabbitmq.url("dispatcher"),
            "consul_url": servers.consul.url,
            "data_dir": tmp_path,
        }
    )
    broker = servers.rabbitmq
    timings = Timings(
        amqp=Amqp(confirm=CONFIRM_TIMEOUT),
        queues=Queues(patience=1.0, cancel=0.5, stuck=1.0, reply=10.0),
    )
    async with running(timed(settings, timings), build) as runtime:
        lanes = Lanes(servers)
        for name in lanes.seen:
            lanes.submit(name, 1)
            await wait_until(lambda name=name: lanes.has(name, 1))  # type: ignore[misc]
        stuck, _ = topology.lane_queues(lanes.stuck)
        async with suspended(Installed(broker), broker.environment, stuck.name):
            lanes.submit(lanes.stuck, TASKS)
            # For twice as long as a publisher bears it to be without a confirm.
            await wait_until(seconds.have_been(2 * CONFIRM_TIMEOUT), 3 * CONFIRM_TIMEOUT)
            lanes.submit(lanes.well, TASKS)
            await wait_until(lambda: lanes.has(lanes.well, TASKS))
        await wait_until(lambda: lanes.has(lanes.stuck, TASKS), 60)
        for link in ("publish", "consume", "reply"):
            assert counted(runtime.metrics, RECONNECTS, link=link) == 0, link
        lanes.close()
