"""What `maniple.amqp.supervision` needs to know of a connection, whoever has made it."""

import asyncio
from typing import Any, Protocol


class Closing(Protocol):
    """A connection or channel: `closing` is done when it is gone; its exception tells why."""

    @property
    def closing(self) -> asyncio.Future[Any]:
        """See the class."""
        ...

    async def close(self) -> None:
        """Close it; it may wait for the broker's answer."""
        ...


class Wire(Closing, Protocol):
    """A connection whose liveness is judged from outside."""

    @property
    def heard(self) -> int:
        """How often something has been received."""
        ...

    async def is_blocked(self) -> bool:
        """Whether a broker alarm holds back what is published."""
        ...

    def send_heartbeat(self) -> None:
        """Send a heartbeat at once."""
        ...

    def abort(self) -> None:
        """Drop it without closing it at the broker; idempotent."""
        ...
