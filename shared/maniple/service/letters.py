"""Messages of the control plane, as they come and as they go."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from maniple.topology import Exchange


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as it came."""

    body: bytes
    type: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    message_id: str | None = None
    redelivered: bool = False

    @property
    def identity(self) -> str:
        """What is the same when it comes again, and for nothing else; empty if nothing tells it.

        A sender that gives no message id may use a correlation id twice: then it has an identity
        only when it was delivered before.
        """
        told = self.message_id or (self.correlation_id if self.redelivered else None)
        if not told:
            return ""
        named = repr((self.reply_to, self.correlation_id, self.message_id)).encode()
        return hashlib.sha256(named + self.body).hexdigest()[:32]


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
