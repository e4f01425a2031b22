"""Messages of the control plane, as they come and as they go."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from maniple.topology import Exchange


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as it came."""

    body: bytes
    type: str | None
    reply_to: str | None
    correlation_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A message to publish, persistently.

    One that may be `repeated` is sent again, under its id, when the connection is lost before the
    confirm.
    """

    exchange: Exchange
    key: str
    body: bytes
    type: str
    message_id: str
    reply_to: str | None = None
    correlation_id: str | None = None
    mandatory: bool = True
    repeated: bool = True


Receiver = Callable[[Arrival], Awaitable[None]]
