"""One message as the broker delivered it."""

from typing import Any, Protocol

from aiormq.abc import DeliveredMessage
from pamqp import commands


class Receiver(Protocol):
    """What a delivery came to."""

    @property
    def generation(self) -> int:
        """Counts connections."""
        ...

    def ack(self, delivery: "Delivery") -> None:
        """Settle a delivery."""
        ...

    def reject(self, delivery: "Delivery") -> None:
        """Refuse a delivery."""
        ...

    def lighten(self, delivery: "Delivery", weight: int) -> None:
        """Count less for a delivery that is worked on."""
        ...

    async def flush(self) -> None:
        """Send the acknowledgements that wait."""
        ...


class Delivery:
    """One message as delivered. Settle it with `ack`, once; later calls do nothing."""

    __slots__ = (
        "_consumer",
        "body",
        "generation",
        "properties",
        "redelivered",
        "routing_key",
        "tag",
        "weight",
    )

    def __init__(self, consumer: Receiver, message: DeliveredMessage, generation: int) -> None:
        """Take over what aiormq delivered."""
        delivery = message.delivery
        assert isinstance(delivery, commands.Basic.Deliver | commands.Basic.GetOk)  # noqa: S101 - what one gets
        self._consumer = consumer
        self.body = message.body
        self.properties = message.header.properties
        self.redelivered = bool(delivery.redelivered)
        self.routing_key = str(delivery.routing_key or "")
        self.tag = int(delivery.delivery_tag or 0)
        self.generation = generation
        self.weight = 0
        """What a `ByteBudget` counts for it while it is worked on."""

    @property
    def headers(self) -> dict[str, Any]:
        """AMQP headers."""
        return self.properties.headers or {}

    @property
    def alive(self) -> bool:
        """Whether the connection that delivered it still stands, so that an ack can arrive."""
        return self.generation == self._consumer.generation

    def ack(self) -> None:
        """Acknowledge soon; idempotent; abandoned when the connection has been lost since."""
        self._consumer.ack(self)

    def lighten(self, weight: int) -> None:
        """Say that it takes less than could be seen before it was read; others get the room."""
        self._consumer.lighten(self, weight)

    async def flushed(self) -> None:
        """Return once acknowledgements until now are written, or their connection is lost."""
        await self._consumer.flush()

    def reject(self) -> None:
        """Refuse for good: the broker dead-letters it with its bytes."""
        self._consumer.reject(self)
