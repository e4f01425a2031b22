"""When a delivery may be acknowledged: once all that came of it is safe."""

from maniple.amqp import Delivery
from maniple.errors import BrokerUnavailable, ManipleError


class Settlement:
    """A delivery being worked on: acknowledged when every part that came of it is confirmed.

    When a part cannot be published whatever one tries, the delivery is refused: the broker
    dead-letters it with its bytes, and a dispatcher publishes its terminal result. When the
    connection is closed under it, it is left to be delivered again.

    One that is `patient` may be kept back while there is no room for what came of it: so its queue
    fills, and pushes back to who publishes there. One that `expires` ends in its queue without
    anybody's doing, should it go back there.
    """

    __slots__ = ("_delivery", "_lost", "_refused", "_remaining", "expires", "patient")

    def __init__(
        self, delivery: Delivery, parts: int, *, patient: bool = False, expires: bool = False
    ) -> None:
        """Wait for `parts` calls of `settle`."""
        self.patient = patient
        self.expires = expires
        self._delivery = delivery
        self._remaining = parts
        self._lost = False
        self._refused = False

    @property
    def remaining(self) -> int:
        """Parts that are waited for."""
        return self._remaining

    @property
    def alive(self) -> bool:
        """Whether it can still be acknowledged; if not it is delivered again, to whomever."""
        return self._delivery.alive

    def expect(self, parts: int) -> None:
        """Wait for so many calls of `settle` more; to be called before the last one."""
        self._remaining += parts

    def settle(self, error: ManipleError | None = None) -> None:
        """Take the end of one part."""
        if isinstance(error, BrokerUnavailable):
            self._lost = True
        elif error is not None:
            self._refused = True
        self._remaining -= 1
        if self._remaining or self._lost:
            return
        if self._refused:
            self._delivery.reject()
        else:
            self._delivery.ack()
