"""The same AMQP by two implementations: ours, and aiormq's."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection
from pamqp import commands

from maniple.amqp.wire import amqp_errors as errors
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel
from maniple.amqp.wire.properties import Properties
from maniple.amqp.wire.requests import Message

CONNECT_SECONDS = 20.0
PROPERTIES = tuple(Properties.__dataclass_fields__)


class Refused(Exception):
    """The broker refuses something: `code` is AMQP's of a closed channel or connection."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class Nacked(Exception):
    """A queue refuses a message."""


class Returned(Exception):
    """A message is bound to no queue."""


@dataclass(frozen=True)
class Got:
    """A message as it was received."""

    tag: int
    redelivered: bool
    exchange: str
    key: str
    body: bytes
    properties: dict[str, Any]


class ChannelLink(ABC):
    """A channel with confirms."""

    @abstractmethod
    async def publish(
        self, body: bytes, key: str, *, mandatory: bool = True, **told: Any
    ) -> None: ...

    @abstractmethod
    async def declare(self, queue: str, *, passive: bool = False, **more: Any) -> tuple[str, int]:
        """Return the queue's name and how many messages it has."""

    @abstractmethod
    async def delete(self, queue: str) -> None: ...

    @abstractmethod
    async def qos(self, count: int) -> None: ...

    @abstractmethod
    async def consume(self, queue: str, got: list[Got], *, no_ack: bool = False) -> str: ...

    @abstractmethod
    async def cancel(self, tag: str) -> None: ...

    @abstractmethod
    async def get(self, queue: str) -> Got | None: ...

    @abstractmethod
    async def ack(self, tag: int, *, multiple: bool = False) -> None: ...

    @abstractmethod
    async def reject(self, tag: int, *, requeue: bool) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...


class Link(ABC):
    """A connection."""

    @abstractmethod
    async def open(self, url: str) -> None: ...

    @abstractmethod
    async def channel(self) -> ChannelLink: ...

    @abstractmethod
    async def close(self) -> None: ...

    @property
    @abstractmethod
    def is_closed(self) -> bool: ...


@contextlib.contextmanager
def _ours() -> Iterator[None]:
    try:
        yield
    except errors.PublishReturned as error:
        raise Returned from error
    except (errors.PublishFailed, errors.PublishImpossible) as error:
        raise Nacked from error
    except (errors.ChannelLost, errors.ConnectionRefused) as error:
        raise Refused(error.code) from error
    except errors.LoginRefused as error:
        raise Refused(errors.ACCESS_REFUSED) from error


class OurChannel(ChannelLink):
    """One of `maniple.amqp.wire`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def publish(self, body: bytes, key: str, *, mandatory: bool = True, **told: Any) -> None:
        with _ours():
            await self._channel.publish(
                body,
                exchange="",
                routing_key=key,
                properties=Properties(**told),
                mandatory=mandatory,
            )

    async def declare(self, queue: str, *, passive: bool = False, **more: Any) -> tuple[str, int]:
        with _ours():
            found = await self._channel.queue_declare(queue, passive=passive, **more)
        return str(found.queue), int(found.message_count or 0)

    async def delete(self, queue: str) -> None:
        await self._channel.queue_delete(queue)

    async def qos(self, count: int) -> None:
        await self._channel.basic_qos(prefetch_count=count)

    async def consume(self, queue: str, got: list[Got], *, no_ack: bool = False) -> str:
        with _ours():
            return await self._channel.basic_consume(
                queue, lambda message: got.append(_got_ours(message)), no_ack=no_ack
            )

    async def cancel(self, tag: str) -> None:
        await self._channel.basic_cancel(tag)

    async def get(self, queue: str) -> Got | None:
        with _ours():
            found = await self._channel.basic_get(queue)
        return None if found is None else _got_ours(found)

    async def ack(self, tag: int, *, multiple: bool = False) -> None:
        with _ours():
            self._channel.basic_ack(tag, multiple=multiple)

    async def reject(self, tag: int, *, requeue: bool) -> None:
        self._channel.basic_reject(tag, requeue=requeue)

    async def close(self) -> None:
        await self._channel.close()


class Ours(Link):
    """One of `maniple.amqp.wire`."""

    async def open(self, url: str) -> None:
        self._connection = Connection(url)
        with _ours():
            await self._connection.open(CONNECT_SECONDS)

    async def channel(self) -> ChannelLink:
        return OurChannel(await self._connection.channel(publisher_confirms=True))

    async def close(self) -> None:
        await self._connection.close()

    @property
    def is_closed(self) -> bool:
        return self._connection.closing.done()


def _got_ours(message: Message) -> Got:
    told = {name: getattr(message.properties, name) for name in PROPERTIES}
    return Got(
        message.tag, message.redelivered, message.exchange, message.routing_key, message.body, told
    )


_CODES = {
    aiormq.exceptions.ChannelAccessRefused: 403,
    aiormq.exceptions.ChannelNotFoundEntity: 404,
    aiormq.exceptions.ChannelPreconditionFailed: 406,
    aiormq.exceptions.ProbableAuthenticationError: 403,
    aiormq.exceptions.ConnectionNotAllowed: 530,
}


@contextlib.contextmanager
def _theirs() -> Iterator[None]:
    try:
        yield
    except aiormq.exceptions.PublishError as error:
        raise Returned from error
    except aiormq.exceptions.DeliveryError as error:
        raise Nacked from error
    except tuple(_CODES) as error:
        raise Refused(_CODES[type(error)]) from error


class TheirChannel(ChannelLink):
    """One of aiormq."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel

    async def publish(self, body: bytes, key: str, *, mandatory: bool = True, **told: Any) -> None:
        with _theirs():
            await self._channel.basic_publish(
                body,
                routing_key=key,
                properties=commands.Basic.Properties(**told),
                mandatory=mandatory,
            )

    async def declare(self, queue: str, *, passive: bool = False, **more: Any) -> tuple[str, int]:
        with _theirs():
            found = await self._channel.queue_declare(queue, passive=passive, **more)
        return str(found.queue), int(found.message_count or 0)

    async def delete(self, queue: str) -> None:
        await self._channel.queue_delete(queue)

    async def qos(self, count: int) -> None:
        await self._channel.basic_qos(prefetch_count=count)

    async def consume(self, queue: str, got: list[Got], *, no_ack: bool = False) -> str:
        async def take(message: aiormq.abc.DeliveredMessage) -> None:
            got.append(_got_theirs(message))

        with _theirs():
            return str((await self._channel.basic_consume(queue, take, no_ack=no_ack)).consumer_tag)

    async def cancel(self, tag: str) -> None:
        await self._channel.basic_cancel(tag)

    async def get(self, queue: str) -> Got | None:
        with _theirs():
            found = await self._channel.basic_get(queue)
        empty = isinstance(found.delivery, commands.Basic.GetEmpty)
        return None if empty else _got_theirs(found)

    async def ack(self, tag: int, *, multiple: bool = False) -> None:
        await self._channel.basic_ack(tag, multiple=multiple)

    async def reject(self, tag: int, *, requeue: bool) -> None:
        await self._channel.basic_reject(tag, requeue=requeue)

    async def close(self) -> None:
        await self._channel.close()


class Theirs(Link):
    """One of aiormq."""

    async def open(self, url: str) -> None:
        with _theirs():
            self._connection: AbstractConnection = await aiormq.connect(url)

    async def channel(self) -> ChannelLink:
        return TheirChannel(await self._connection.channel(publisher_confirms=True))

    async def close(self) -> None:
        await self._connection.close()

    @property
    def is_closed(self) -> bool:
        return self._connection.is_closed


def _got_theirs(message: aiormq.abc.DeliveredMessage) -> Got:
    delivery: Any = message.delivery
    told = {name: getattr(message.header.properties, name) for name in PROPERTIES}
    return Got(
        int(message.delivery_tag or 0),
        bool(message.redelivered),
        str(delivery.exchange),
        str(delivery.routing_key),
        message.body,
        told,
    )
