"""What becomes of a publish: what is under way, who is told, when its source is acknowledged.

A `done` callback is called once, with None when the broker has confirmed or with the error: so that
a source message is acknowledged only after all that came of it is safe.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from msgspec import Struct

from maniple.amqp import Delivery
from maniple.amqp.batching import MAX_BYTES, MAX_ITEMS
from maniple.errors import BrokerUnavailable, ManipleError
from maniple.timings import Queues

K = TypeVar("K")
T = TypeVar("T")

ConfirmCallback = Callable[[ManipleError | None], None]

Key = tuple[str, str]
"""Name of an exchange, and a routing key on it."""

DELIVERED_AGAIN = "what it came in is delivered again"
"""Why nothing more is done here for what is somebody else's by now."""

_log = logging.getLogger(__name__)


def as_ours(error: BaseException) -> ManipleError:
    """Return an error that `done` callbacks take; what is none of ours is logged."""
    if isinstance(error, ManipleError):
        return error
    _log.error("a message cannot be published", exc_info=error)
    return ManipleError(f"cannot be published: {error!r}")


def tell(dones: Iterable[ConfirmCallback], error: ManipleError | None) -> None:
    """Call each; one that raises does not keep the others from hearing."""
    for done in dones:
        try:
            done(error)
        except Exception:  # noqa: BLE001 - the same
            _log.exception("what was to be done after a publish has failed")


def together(dones: list[ConfirmCallback]) -> ConfirmCallback:
    """Return what calls each."""
    return dones[0] if len(dones) == 1 else partial(tell, dones)


def ignored(_error: ManipleError | None) -> None:
    """Ignore the end of what nobody waits for."""


class AllConfirmed:
    """Calls `done` when `count` parts have ended; the first error is the one it is told."""

    __slots__ = ("_count", "_done", "_error")

    def __init__(self, count: int, done: ConfirmCallback) -> None:
        """Wait for `count` calls of `part`."""
        self._count = count
        self._done = done
        self._error: ManipleError | None = None

    def part(self, error: ManipleError | None) -> None:
        """Record the end of one part."""
        self._error = self._error or error
        self._count -= 1
        if self._count == 0:
            self._done(self._error)


class Together(Struct, Generic[T], eq=False):
    """What goes to the same place: encoded values, and what is kept of each meanwhile."""

    encoded: list[bytes]
    members: list[T]
    size: int = 0
    """Bytes of them all."""

    def joined(self) -> bytes:
        """Return the encoded values with commas between them."""
        return b",".join(self.encoded)


class Turn(Generic[K, T]):
    """What is added in one turn of the loop, sent together for each key.

    What came together, or ends together, so costs the bookkeeping of one publish.
    """

    def __init__(
        self,
        send: Callable[[K, Together[T]], None],
        most: Callable[[K], int] = lambda _: MAX_ITEMS,
    ) -> None:
        """Hand to `send` what has come together of a key, at most so many at once."""
        self._send = send
        self._most = most
        self._groups: dict[K, Together[T]] = {}
        self.kept = 0
        """Bytes that were added in this turn."""

    def add(self, key: K, encoded: bytes, member: T) -> None:
        """Send a value at the end of the turn, with others of its key."""
        size, group = len(encoded), self._groups.get(key)
        if group is None:
            if not self._groups:
                asyncio.get_running_loop().call_soon(self.send_all)
            group = self._groups[key] = Together([], [])
        elif len(group.members) >= self._most(key) or group.size + size > MAX_BYTES:
            self._hand_on(key, group)
            group = self._groups[key] = Together([], [])
        group.encoded.append(encoded)
        group.members.append(member)
        group.size += size
        self.kept += size

    def send_all(self) -> None:
        """Send what has come."""
        groups, self._groups = self._groups, {}
        for key, group in groups.items():
            self._hand_on(key, group)

    def _hand_on(self, key: K, group: Together[T]) -> None:
        self.kept -= group.size
        self._send(key, group)


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
        """Record the end of one part."""
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


class InFlightPublish(Struct, Generic[T], eq=False):
    """One publish: what, whither, when (seconds), and whether there may be two of it."""

    key: Key
    item: T
    since: float
    may_copy: bool = True


@dataclass(slots=True)
class InFlightPublishes(Generic[T]):
    """Publishes that are in flight, and what is to be done when one is not confirmed. Pure.

    Tickets in order of time. Each is ended once; what was given up before has no more effect.

    A lane that does not confirm (its queue has lost its leader) may still get what was published,
    so a copy elsewhere may run twice; but whoever waits for it holds up the source messages of all
    lanes. So after some seconds (`patience`) a copy waits in `maniple.delay` and the source is
    released, only if the broker confirms other things meanwhile: a broker that stands still as a
    whole is waited for. What must not run twice gets no copy: it is waited for, and holds up its
    own source message only. What was given up is not sent again, or the connection would be taken
    for dead as long as the lane is stuck. The patience is longer than a busy broker is behind with
    one queue while it is not with another: copies would only add to its work.

    The connection stays: `Publisher` asks whether its channel answers.

    Where something was given up, hardly anything is tried for a while (`destination_backoff`), and
    what is goes by a scout (`amqp.first_publish`), as does the first publish to a queue: a queue
    without a leader stops the channel that publishes to it first, and has 32 messages of a channel
    unconfirmed before it stops the connection.
    """

    patience: float = field(default_factory=lambda: Queues().patience)
    _tickets: dict[InFlightPublish[T], None] = field(default_factory=dict)
    _answered: float = 0.0
    _probed: float | None = None

    def begin(self, key: Key, item: T, now: float, *, may_copy: bool = True) -> InFlightPublish[T]:
        """Record that a publish begins; what there may be no copy of is never overdue."""
        ticket = InFlightPublish(key, item, now, may_copy)
        self._tickets[ticket] = None
        return ticket

    def end(self, ticket: InFlightPublish[T]) -> bool:
        """Record that a publish was confirmed or refused; False if a copy of its item waits."""
        self.answered(ticket.since)
        return self.withdraw(ticket)

    def withdraw(self, ticket: InFlightPublish[T]) -> bool:
        """End a ticket of which the broker has told nothing; returns as `end` does."""
        return self._tickets.pop(ticket, self) is None

    def answered(self, since: float) -> None:
        """Record that the broker has answered something that was sent at `since`."""
        self._answered = max(self._answered, since)
        if self._probed is not None and since >= self._probed:
            self._probed = None

    @property
    def waits(self) -> bool:
        """Whether any has not ended."""
        return bool(self._tickets)

    def renew(self, now: float) -> None:
        """Count from now on: until now the broker took nothing from anybody."""
        for ticket in self._tickets:
            ticket.since = now

    def is_given_up(self, ticket: InFlightPublish[T]) -> bool:
        """Tell whether a copy of a ticket's item waits, or it has ended."""
        return ticket not in self._tickets

    def overdue(
        self, now: float, fits: Callable[[T], bool] = lambda _: True
    ) -> list[InFlightPublish[T]]:
        """Give up what takes too long and `fits`, each asked for in turn, and return it.

        While nothing sent later has been answered, that is the oldest only, and one more each time
        that as long has passed: the answer to its copy, or none, tells a lane that is stuck from a
        broker that stands still; and where the copy went may be stuck too.
        """
        late: list[InFlightPublish[T]] = []
        for ticket in self._tickets:
            if now - ticket.since < self.patience:
                break
            if not ticket.may_copy:
                continue
            is_known = self._answered - ticket.since >= self.patience
            is_due = not late and (self._probed is None or now - self._probed >= self.patience)
            if not (is_known or is_due) or not fits(ticket.item):
                continue
            late.append(ticket)
            if not is_known:
                self._probed = now
                break
        for ticket in late:
            del self._tickets[ticket]
        return late

    def waited_for(self, now: float) -> set[Key]:
        """Return where something takes too long that there may be no copy of.

        What waits behind it and was never sent may go elsewhere, whatever the broker answers.
        """
        return {
            ticket.key
            for ticket in self._tickets
            if not ticket.may_copy and now - ticket.since >= self.patience
        }
