"""The floods: what each publishes, as the `outside` user may."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingConnection

from poison import of_a_node_that_is_gone

ARRAYS = 150
MEMBERS = 1_000
INVENTED = 20_000
WEEK = 7 * 24 * 3600

POISONED = 200
A_SECOND = 10
LONG = 120.0  # seconds

Message = tuple[str, bytes, str | None]
"""A routing key, a body, and a `reply_to` if it is not a queue that nobody reads."""


@dataclass(frozen=True)
class Kind:
    """What is published, and which capability a neighbour asks for meanwhile."""

    messages: Callable[[], Iterator[Message]]
    neighbour: str = "maniple.echo"


def bad_arrays() -> Iterator[Message]:
    """1.2 MB: arrays of members that have a field that no task has."""
    body = json.dumps([{"x": 1}] * MEMBERS, separators=(",", ":")).encode()
    return (("maniple.echo", body, None) for _ in range(ARRAYS))


def one_id() -> Iterator[Message]:
    """Arrays whose members all claim one id."""
    body = json.dumps([{"id": "a", "ttl": 60}] * MEMBERS, separators=(",", ":")).encode()
    return (("maniple.echo", body, None) for _ in range(ARRAYS))


def bad_singles() -> Iterator[Message]:
    """As many bad members as one array has, twenty times, each in a message of its own."""
    return (("maniple.echo", b'{"x":1}', None) for _ in range(20 * MEMBERS))


def invented() -> Iterator[Message]:
    """600 kB: tasks that no agent will ever take, for as long as a task may wait."""
    for start in range(0, INVENTED, MEMBERS):
        names = (f"no.x{number}" for number in range(start, start + MEMBERS))
        body = json.dumps([{"capability": name, "ttl": WEEK} for name in names]).encode()
        yield "batch", body, None


def poisoned() -> Iterator[Message]:
    """Tasks whose replies cost the connection that they go over, ten a second."""
    for _ in range(POISONED):
        yield "maniple.echo", b'{"payload":1}', of_a_node_that_is_gone(7)
        time.sleep(1 / A_SECOND)


def long_tasks(capability: str, payload: Any) -> Iterator[Message]:
    """One array of tasks that take every slot which they may, and keep it."""
    member = {"payload": payload, "ttl": LONG, "timeout": 2 * LONG}
    yield capability, json.dumps([member] * MEMBERS).encode(), None


KINDS: dict[str, Kind] = {
    "arrays of bad members": Kind(bad_arrays),
    "arrays of one id": Kind(one_id),
    "bad messages": Kind(bad_singles),
    "invented capabilities": Kind(invented),
    "poisoned addresses": Kind(poisoned),
    "long sleeps": Kind(partial(long_tasks, "maniple.sleep", {"seconds": LONG / 2})),
    "long async tasks": Kind(partial(long_tasks, "flood.sleep", LONG), "flood.quick"),
    "long tasks in threads": Kind(partial(long_tasks, "flood.block", LONG), "flood.plain"),
}


def publish(url: str, kind: Kind) -> None:
    """Publish a flood, each message with a `reply_to` of a queue that nobody reads."""
    connection: Any = BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    queue = channel.queue_declare("flood-replies", durable=True).method.queue
    for key, body, reply_to in kind.messages():
        properties = pika.BasicProperties(reply_to=reply_to or queue, delivery_mode=2)
        channel.basic_publish("maniple.tasks", key, body, properties)
    connection.close()
