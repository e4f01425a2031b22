"""Looking at a broker from outside: is it there, which version, what has been declared."""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiormq
from aiormq.abc import AbstractChannel

from maniple.errors import BrokerUnavailable
from maniple.transport.link import LOST


@dataclass(frozen=True)
class BrokerView:
    """What a broker says of itself, and which names it does not have."""

    product: str
    version: str
    missing_exchanges: tuple[str, ...]
    missing_queues: tuple[str, ...]


async def probe(
    url: str, exchanges: Iterable[str], queues: Iterable[str], *, timeout: float = 10.0
) -> BrokerView:
    """Connect once and look for these names; declares nothing.

    Raises `BrokerUnavailable` with the reason: no answer, wrong password, no such vhost.
    """
    parts = urlsplit(url)
    where = f"{parts.hostname}:{parts.port or 5672}{parts.path}"
    try:
        async with asyncio.timeout(timeout):
            return await _look(url, tuple(exchanges), tuple(queues))
    except aiormq.exceptions.ProbableAuthenticationError as error:
        raise BrokerUnavailable(f"{where} refused the user or password") from error
    except TimeoutError as error:
        raise BrokerUnavailable(f"{where} did not answer within {timeout:g} s") from error
    except LOST as error:
        raise BrokerUnavailable(f"{where}: {error!r}") from error


async def _look(url: str, exchanges: tuple[str, ...], queues: tuple[str, ...]) -> BrokerView:
    connection = aiormq.Connection(url)
    try:
        await connection.connect()
        properties = connection.server_properties
        return BrokerView(
            product=_text(properties.get("product")),
            version=_text(properties.get("version")),
            missing_exchanges=await _missing(connection, exchanges, queues=False),
            missing_queues=await _missing(connection, queues, queues=True),
        )
    finally:
        with contextlib.suppress(*LOST):
            await connection.close()


async def _missing(
    connection: aiormq.Connection, names: tuple[str, ...], *, queues: bool
) -> tuple[str, ...]:
    missing = []
    channel: AbstractChannel | None = None
    for name in names:
        channel = channel or await connection.channel()
        try:
            if queues:
                await channel.queue_declare(name, passive=True)
            else:
                await channel.exchange_declare(name, passive=True)
        except aiormq.exceptions.ChannelNotFoundEntity:
            missing.append(name)
            channel = None  # the broker has closed it
    return tuple(missing)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
