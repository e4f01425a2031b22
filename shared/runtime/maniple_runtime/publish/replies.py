"""Replies that are under way; a queue that confirms none of them holds up nothing else."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maniple.clock import SYSTEM_CLOCK
from maniple.errors import ManipleError, PublishRefused
from maniple.timings import Queues
from maniple_runtime.publish.confirm import (
    ConfirmCallback,
    InFlightPublish,
    InFlightPublishes,
    tell,
)

if TYPE_CHECKING:
    from maniple_runtime.publish.batch_publisher import BatchPublisher

REPLY_BYTES = 16 * 1024**2  # of replies that nobody waits for any more
BESIDES = 1024  # bytes that one takes besides its own, about
OFFERS = 32  # that are waited for
OFFERED_BYTES = 8 * 1024**2  # of those that are not
OFFERED_BYTES_OF_PLACE = 1024**2

Place = tuple["BatchPublisher", str]
"""An outlet, and a key of it."""


@dataclass(slots=True, eq=False)
class Reply:
    """The `done` of a reply: where it goes, what it is, and who waits for it."""

    place: Place
    size: int
    done: ConfirmCallback
    told: Callable[["Reply", ManipleError | None], None]
    type: str = ""
    correlation_id: str | None = None
    count: int = 1
    """How many results it has."""
    ticket: InFlightPublish["Reply"] | None = None

    def __call__(self, error: ManipleError | None) -> None:
        """Hear what became of it."""
        self.told(self, error)


class Replies:
    """Sends replies, and says soon that they are done: the record has what they say.

    Who waits for a reply is told after `Queues.patience` seconds without a confirm, while others
    have theirs; and at once while others to the same queue are late. It goes on being tried for
    `Queues.reply` seconds. No more than `REPLY_BYTES` are kept so; beyond that replies are waited
    for, which holds up their tasks. A queue that is slow is never given up for its bytes, only one
    that has confirmed nothing for `Queues.silence` seconds: what waits for it is `dropped`.
    """

    def __init__(
        self,
        dropped: Callable[[int], None],
        times: Queues | None = None,
        monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic,
    ) -> None:
        """Begin with none; `dropped` is told how many results are given up."""
        self._times = times or Queues()
        self._monotonic = monotonic
        self._dropped = dropped
        self._in_flight: InFlightPublishes[Reply] = InFlightPublishes(self._times.patience)
        self._released: dict[Reply, float] = {}  # in order of time
        self._late: Counter[Place] = Counter()  # how many of each place are released
        self._heard: dict[Place, float] = {}  # since when each of these has confirmed nothing
        self._ended = asyncio.Event()
        self._offers = 0
        self._offered: Counter[Place] = Counter()  # bytes of each place
        self._offered_bytes = 0
        self.kept = 0
        """Bytes of replies that nobody waits for any more."""

    def send_reply(  # noqa: PLR0913 - what is sent, whither, and whom to tell
        self,
        place: Place,
        encoded: bytes,
        done: ConfirmCallback,
        *,
        type_: str = "",
        correlation_id: str | None = None,
        count: int = 1,
    ) -> None:
        """Send one, of `count` results; `done` is called once, unless the process ends before."""
        size = len(encoded) + count * BESIDES
        reply = Reply(place, size, done, self._told, type_, correlation_id, count)
        outlet, key = place
        # The other half is for places that are late for the first time.
        if place in self._late and self.kept <= REPLY_BYTES // 2:
            self._release(reply, self._monotonic())
        else:
            reply.ticket = self._in_flight.begin(("", key), reply, self._monotonic())
        outlet.add_item(key, encoded, reply, count)

    def offer(
        self,
        place: Place,
        encoded: bytes,
        done: ConfirmCallback,
        *,
        type_: str = "",
        correlation_id: str | None = None,
    ) -> None:
        """Send one of which senders of rubbish can cause any number.

        While `OFFERS` are waited for, nobody waits for another. Of those no more than
        `OFFERED_BYTES` are kept, and of one place less, so that one that is flooded costs no other
        its replies; what finds no room is dropped.
        """
        size = len(encoded) + BESIDES
        if self._offers < OFFERS:
            self._offers += 1
            taken = self._waited(done)
        elif (
            self._offered_bytes + size <= OFFERED_BYTES
            and self._offered[place] + size <= OFFERED_BYTES_OF_PLACE
        ):
            taken = self._unwaited(place, size)
            tell([done], None)
        else:
            self._dropped(1)
            tell([done], None)
            return
        self.send_reply(place, encoded, taken, type_=type_, correlation_id=correlation_id)

    def _waited(self, done: ConfirmCallback) -> ConfirmCallback:
        def ended(error: ManipleError | None) -> None:
            self._offers -= 1
            done(error)

        return ended

    def _unwaited(self, place: Place, size: int) -> ConfirmCallback:
        def ended(_: ManipleError | None) -> None:
            self._offered_bytes -= size
            self._offered[place] -= size
            if not self._offered[place]:
                del self._offered[place]

        self._offered_bytes += size
        self._offered[place] += size
        return ended

    def answered(self, since: float) -> None:
        """Record that the broker has confirmed something else that was sent at `since`."""
        self._in_flight.answered(since)

    def drop_late(self, *, taking: bool) -> None:
        """Stop waiting for what is not confirmed for too long; to be called now and then.

        While the broker is not `taking` anything (away, or an alarm) nobody's time counts.
        """
        now = self._monotonic()
        if not taking:
            self._in_flight.renew(now)
            self._released = dict.fromkeys(self._released, now)
            self._heard = dict.fromkeys(self._heard, now)
            return
        for ticket in self._in_flight.overdue(now, self._fits()):
            self._release(ticket.item, now)
        for place in self._given_up(now):
            self._drop(place)
        self._ended.set()

    def _fits(self) -> Callable[[Reply], bool]:
        """Return what tells of each reply in turn whether it may be released besides the others."""
        kept = self.kept

        def fits(reply: Reply) -> bool:
            nonlocal kept
            if kept > REPLY_BYTES:
                return False
            kept += reply.size
            return True

        return fits

    def _given_up(self, now: float) -> list[Place]:
        """Return the places whose replies are late for too long, or silent while room is wanted."""
        places: dict[Place, None] = {}
        for reply, since in self._released.items():
            if now - since < self._times.reply:
                break
            places[reply.place] = None
        if self.kept > REPLY_BYTES:
            silent = (p for p, heard in self._heard.items() if now - heard >= self._times.silence)
            places.update(dict.fromkeys(silent))
        return list(places)

    async def drain(self) -> None:
        """Return when nobody waits for a reply any more."""
        while self._in_flight.waits:
            self._ended.clear()
            await self._ended.wait()

    def _told(self, reply: Reply, error: ManipleError | None) -> None:
        """Settle a reply of which it is known what became; it may have been released before."""
        refused = isinstance(error, PublishRefused)
        is_answer = error is None or refused
        if is_answer and reply.place in self._heard:
            self._heard[reply.place] = self._monotonic()
        waited = False
        if reply.ticket is not None:
            waited = (self._in_flight.end if is_answer else self._in_flight.withdraw)(reply.ticket)
            reply.ticket = None  # which has the reply: both would wait for a garbage collection
            self._ended.set()
        if refused and (waited or reply in self._released):
            self._dropped(reply.count)
        if waited:
            reply.done(None if refused else error)
        else:
            self._forget(reply)

    def _release(self, reply: Reply, now: float) -> None:
        self._released[reply] = now
        self._late[reply.place] += 1
        self._heard.setdefault(reply.place, now)
        self.kept += reply.size
        tell([reply.done], None)

    def _forget(self, reply: Reply) -> None:
        if self._released.pop(reply, None) is None:
            return
        self.kept -= reply.size
        self._late[reply.place] -= 1
        if not self._late[reply.place]:
            del self._late[reply.place], self._heard[reply.place]

    def _drop(self, place: Place) -> None:
        """Give up what was released of a place, and whatever waits behind it."""
        outlet, key = place
        unsent = [done for done in outlet.withdraw(key) if isinstance(done, Reply)]
        for reply in unsent:
            if reply.ticket is not None and self._in_flight.withdraw(reply.ticket):
                self._release(reply, 0.0)
        for reply in [one for one in self._released if one.place == place]:
            self._forget(reply)
            self._dropped(reply.count)
        outlet.cancel(key, self._is_given_up)

    def _is_given_up(self, done: ConfirmCallback) -> bool:
        if not isinstance(done, Reply):
            return False
        return done.ticket is None or self._in_flight.is_given_up(done.ticket)
