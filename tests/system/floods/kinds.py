"""The floods: what each publishes, as the `outside` user may."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pika
from pika.adapters.blocking_connection import BlockingConnection

from poison import of_a_node_that_is_gone

ARRAYS = 150
MEMBERS = 1_000
INVENTED = 20_000
WEEK = 7 * 24 * 3600
PAST = "2020-01-01T00:00:00Z"

POISONED = 200
A_SECOND = 10
LONG = 120.0  # seconds


class Message(NamedTuple):
    """What is published, with a `reply_to` if that is not a queue that nobody reads."""

    routing_key: str
    body: bytes
    reply_to: str | None = None
    expiration: str | None = None  # milliseconds


@dataclass(frozen=True)
class Kind:
    """What is published, and which capability a neighbour asks for meanwhile."""

    messages: Callable[[], Iterator[Message]]
    neighbour: str = "maniple.echo"


def arrays(
    member: dict[str, Any], capability: str = "maniple.echo", expiration: str | None = None
) -> Iterator[Message]:
    """Arrays of one and the same member."""
    body = json.dumps([member] * MEMBERS, separators=(",", ":")).encode()
    return (Message(capability, body, expiration=expiration) for _ in range(ARRAYS))


def bad_singles() -> Iterator[Message]:
    """As many bad members as one array has, twenty times, each in a message of its own."""
    return (Message("maniple.echo", b'{"x":1}') for _ in range(20 * MEMBERS))


def invented() -> Iterator[Message]:
    """600 kB: tasks that no agent will ever take, for as long as a task may wait."""
    for start in range(0, INVENTED, MEMBERS):
        names = (f"no.x{number}" for number in range(start, start + MEMBERS))
        body = json.dumps([{"capability": name, "ttl": WEEK} for name in names]).encode()
        yield Message("batch", body)


def poisoned() -> Iterator[Message]:
    """Tasks whose replies cost the connection that they go over, ten a second."""
    for _ in range(POISONED):
        yield Message("maniple.echo", b'{"payload":1}', of_a_node_that_is_gone(7))
        time.sleep(1 / A_SECOND)


def long_tasks(capability: str, payload: Any) -> Iterator[Message]:
    """One array of tasks that take every slot which they may, and keep it."""
    member = {"payload": payload, "ttl": LONG, "timeout": 2 * LONG}
    yield Message(capability, json.dumps([member] * MEMBERS).encode())


KINDS: dict[str, Kind] = {
    "arrays of bad members": Kind(partial(arrays, {"x": 1})),
    "arrays of one id": Kind(partial(arrays, {"id": "a", "ttl": 60})),
    "arrays that are too late": Kind(partial(arrays, {"deadline": PAST})),
    "arrays that expire": Kind(partial(arrays, {}, "flood.quick", "1")),
    "arrays of good tasks": Kind(partial(arrays, {}, "flood.quick")),
    "arrays for the same lane": Kind(partial(arrays, {})),
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
    for one in kind.messages():
        properties = pika.BasicProperties(
            reply_to=one.reply_to or queue, expiration=one.expiration, delivery_mode=2
        )
        channel.basic_publish("maniple.tasks", one.routing_key, one.body, properties)
    connection.close()
