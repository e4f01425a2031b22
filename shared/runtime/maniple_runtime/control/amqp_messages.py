"""Messages of the control plane as they arrive and as they are sent."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from maniple.topology import Exchange


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message as it arrived."""

    body: bytes
    type: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    message_id: str | None = None
    redelivered: bool = False

    @property
    def identity(self) -> str:
        """Equal for every delivery of a message; empty if its sender gave it no id.

        Different messages have different identities, but a sender may use a correlation id twice.
        """
        if not self.message_id and not self.correlation_id:
            return ""
        named = repr((self.reply_to, self.correlation_id, self.message_id)).encode()
        return hashlib.sha256(named + self.body).hexdigest()[:32]

    @property
    def may_repeat(self) -> bool:
        """Whether a message with this identity may have arrived before."""
        return self.redelivered or bool(self.message_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """A message to publish, persistently.

    If it may be `repeated`, it is sent again, under its id, when the connection is lost before the
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


Receiver = Callable[[IncomingMessage], Awaitable[None]]
