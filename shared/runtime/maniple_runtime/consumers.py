"""The inputs of a process, each with its handler.

A service lists all of them in one table, at the end of its `consumers.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from maniple.amqp import AmqpConnection, Delivery, Listener
from maniple.topology import Exchange, Queue
from maniple_runtime.control.messages import ControlMessage
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.control.requests import Responder
from maniple_runtime.hotpath import HotPath


@dataclass(frozen=True, slots=True)
class FromQueue:
    """Deliveries of a queue on the hot path, at most `prefetch` of them unsettled."""

    queue: Queue
    take: Callable[[Delivery], None]
    prefetch: int


@dataclass(frozen=True, slots=True)
class FromExchange:
    """Messages of these types from the control plane, by these routing keys."""

    exchange: Exchange
    keys: tuple[str, ...]
    types: tuple[type[ControlMessage], ...]
    take: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Heard:
    """Messages that lose their worth with age, as body, type and id: nothing is acknowledged."""

    exchange: Exchange
    key: str
    take: Callable[[bytes, str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumers:
    """All inputs of a process; `requests` are handlers by the name of the operation."""

    queues: tuple[FromQueue, ...] = ()
    heard: tuple[Heard, ...] = ()
    messages: tuple[FromExchange, ...] = ()
    requests: Mapping[str, Responder] = field(default_factory=dict)

    def consume_queues(self, hot: HotPath) -> None:
        """Consume the queues over the connections of the hot path."""
        for one in self.queues:
            hot.consume(one.queue, one.take, one.prefetch)

    def listen(self, connection: AmqpConnection) -> None:
        """Add the listeners to a connection, which must not have been started yet."""
        for one in self.heard:
            Listener(connection, [(one.exchange.name, one.key)], one.take)

    async def subscribe(self, plane: ControlPlane) -> None:
        """Subscribe to the messages of the control plane. Raises `BrokerUnavailable`."""
        for one in self.messages:
            await plane.subscribe(one.exchange, one.keys, one.types, one.take)

    async def respond(self, plane: ControlPlane, service: str) -> None:
        """Answer requests to a service, shared with its replicas. Raises `BrokerUnavailable`."""
        await plane.respond(service, self.requests)
