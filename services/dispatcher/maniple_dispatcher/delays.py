"""Waiting in the broker: a task that finds no room there either ends, or goes round."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic

from maniple.bundles import Bundler
from maniple.codec import encode
from maniple.errors import ManipleError, PublishRefused
from maniple.identifiers import new_id
from maniple.messages import ENVELOPES_TYPE, Envelope, Waiting
from maniple.service.done import Done, as_ours, tell
from maniple.service.doors import TIER_KEYS, Doors
from maniple.service.names import BUNDLE_TASKS, BUNDLES_SENT, BYTES_SENT, PUBLISHES_REFUSED
from maniple.service.telemetry import Metrics
from maniple.service.under_way import Ticket, UnderWay
from maniple.timings import Queues
from maniple.topology import DEFAULT, DELAY, RETRY_QUEUE, Exchange, other_tier, tier_name
from maniple.transport import Outgoing, Publisher
from maniple_dispatcher.domain.routing import Wait, shorter

# What goes round without a wait is looked at again so seldom.
ROUND = 0.1
BESIDES_PAYLOAD = 512  # bytes of an envelope, about


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A task on its way to a tier."""

    envelope: Envelope
    done: Done
    ticket: Ticket[tuple[Envelope, Done, bool]]


class Delays:
    """Publishes to the tiers of `maniple.delay`.

    What waits in numbers is looked at again and again, so it must cost little: the tasks of a
    bundle are encoded together. From a tier that confirms nothing, while others do, they go to
    another: the source messages that they hold up are those of all lanes. Hardly anything is sent
    to such a tier any more; while all are such, tasks wait here for the next that may be tried.
    """

    def __init__(self, publisher: Publisher, metrics: Metrics, times: Queues | None = None) -> None:
        """Publish through `publisher`."""
        self._publisher = publisher
        self._metrics = metrics
        self._refusals = metrics.counter(PUBLISHES_REFUSED, DELAY.name)
        self._bundlers: dict[tuple[float, bool], Bundler[_Waiter]] = {}
        self._times = times or Queues()
        self._under_way: UnderWay[tuple[Envelope, Done, bool]] = UnderWay(self._times.patience)
        self._doors = Doors(self._times)
        self._cancel_at: dict[float, float] = {}
        self._pausing = 0

    def add(self, waiting: Wait, done: Done, *, insist: bool) -> None:
        """Let a task wait; `done` when that is confirmed, or, without `insist`, refused.

        With `insist` a full tier is passed over for the next shorter one. When none has room the
        task goes to the end of `maniple.retry` itself, which has no limit: behind the others, so
        that it holds up none of them, until there is room somewhere.
        """
        now = monotonic()
        key, rest = self._doors.first(TIER_KEYS[waiting.tier], now)
        if rest:
            self._later(rest, partial(self.add, waiting, done, insist=insist))
            return
        tier = float(key[1])
        bundler = self._bundlers.get((tier, insist))
        if bundler is None:  # one that is empty is false
            send = partial(self._send, tier, insist=insist)
            bundler = self._bundlers[tier, insist] = Bundler(send)
        envelope = waiting.envelope
        ticket = self._under_way.begin(key, (envelope, done, insist), now)
        bundler.add(_Waiter(envelope, done, ticket), len(envelope.payload) + BESIDES_PAYLOAD)

    def _later(self, seconds: float, go_on: Callable[[], None]) -> None:
        def then() -> None:
            self._pausing -= 1
            go_on()

        self._pausing += 1
        asyncio.get_running_loop().call_later(seconds, then)

    def answered(self, since: float) -> None:
        """Take that the broker has confirmed something else that was sent at `since`."""
        self._under_way.answered(since)

    def look(self, *, taking: bool) -> None:
        """Let wait elsewhere what is not confirmed for too long; to be called now and then.

        While the broker is not `taking` anything (away, or an alarm) nobody's time counts.
        """
        now = monotonic()
        if not taking:
            self._under_way.renew(now)
            return
        overdue = self._under_way.overdue(now)
        for key in {ticket.key for ticket in overdue}:
            self._doors.shut(key, Waiting.UNCONFIRMED, now)
        for ticket in overdue:
            self._elsewhere(ticket)
        for tier in {float(ticket.key[1]) for ticket in overdue}:
            self._cancel_at.setdefault(tier, now + self._times.cancel)
            for bundler in self._of(tier):
                for waiter in bundler.withdraw():
                    if not self._under_way.withdraw(waiter.ticket):
                        continue
                    self._elsewhere(waiter.ticket)
        for tier in [tier for tier, at in self._cancel_at.items() if at <= now]:
            del self._cancel_at[tier]
            for bundler in self._of(tier):
                bundler.cancel(lambda waiter: self._under_way.is_given_up(waiter.ticket))

    def _elsewhere(self, ticket: Ticket[tuple[Envelope, Done, bool]]) -> None:
        envelope, done, insist = ticket.item
        self.add(Wait(other_tier(float(ticket.key[1])), envelope), done, insist=insist)

    def _of(self, tier: float) -> list[Bundler[_Waiter]]:
        return [bundler for (at, _), bundler in self._bundlers.items() if at == tier]

    async def drain(self) -> None:
        """Return when everything has been sent."""
        while self._pausing or not all(bundler.idle for bundler in self._bundlers.values()):
            for bundler in list(self._bundlers.values()):
                await bundler.drain()
            if self._pausing:
                await asyncio.sleep(ROUND)

    async def _send(self, tier: float, waiters: list[_Waiter], *, insist: bool) -> None:
        error: ManipleError | None = None
        body = encode([waiter.envelope for waiter in waiters])
        try:
            await (self._insist if insist else self._publish)(tier, body)
        except Exception as failure:  # noqa: BLE001 - whatever it was, each task must hear of it
            error = as_ours(failure)
        else:
            self._metrics.counter(BUNDLES_SENT, DELAY.name).inc()
            self._metrics.counter(BYTES_SENT, DELAY.name).inc(len(body))
            self._metrics.histogram(BUNDLE_TASKS, DELAY.name).observe(len(waiters))
        is_answer = error is None or isinstance(error, PublishRefused)
        if is_answer:
            self._doors.open((DELAY.name, tier_name(tier)))
        ended = self._under_way.end if is_answer else self._under_way.withdraw
        tell([waiter.done for waiter in waiters if ended(waiter.ticket)], error)

    async def _insist(self, tier: float, body: bytes) -> None:
        at: float | None = tier
        while True:
            try:
                if at is not None:
                    return await self._publish(at, body)
                return await self._publish_to(DEFAULT, RETRY_QUEUE.name, body)
            except PublishRefused:
                at = tier if at is None else shorter(at)
                if at is None:
                    await asyncio.sleep(ROUND)

    async def _publish(self, tier: float, body: bytes) -> None:
        try:
            await self._publish_to(DELAY, tier_name(tier), body)
        except PublishRefused:
            self._refusals.inc()
            raise

    async def _publish_to(self, exchange: Exchange, key: str, body: bytes) -> None:
        message = Outgoing(exchange.name, key, body, message_id=new_id(), type=ENVELOPES_TYPE)
        await self._publisher.publish(message)
