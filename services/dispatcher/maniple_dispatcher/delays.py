"""Waiting in the broker: a task that finds no room there either ends, or goes round."""

import asyncio
from functools import partial

from maniple.bundles import Bundler
from maniple.codec import encode
from maniple.errors import ManipleError, PublishRefused
from maniple.identifiers import new_id
from maniple.messages import ENVELOPES_TYPE, Envelope
from maniple.service.done import Done, as_ours, tell
from maniple.service.names import BUNDLE_TASKS, BUNDLES_SENT, BYTES_SENT, PUBLISHES_REFUSED
from maniple.service.telemetry import Metrics
from maniple.topology import DEFAULT, DELAY, RETRY_QUEUE, Exchange, tier_name
from maniple.transport import Outgoing, Publisher
from maniple_dispatcher.domain.routing import Wait, shorter

# What goes round without a wait is looked at again so seldom.
ROUND = 0.1
BESIDES_PAYLOAD = 512  # bytes of an envelope, about

Waiter = tuple[Envelope, Done]


class Delays:
    """Publishes to the tiers of `maniple.delay`.

    What waits in numbers is looked at again and again, so it must cost little: the tasks of a
    bundle are encoded together.
    """

    def __init__(self, publisher: Publisher, metrics: Metrics) -> None:
        """Publish through `publisher`."""
        self._publisher = publisher
        self._metrics = metrics
        self._refusals = metrics.counter(PUBLISHES_REFUSED, DELAY.name)
        self._bundlers: dict[tuple[float, bool], Bundler[Waiter]] = {}

    def add(self, waiting: Wait, done: Done, *, insist: bool) -> None:
        """Let a task wait; `done` when that is confirmed, or, without `insist`, refused.

        With `insist` a full tier is passed over for the next shorter one. When none has room the
        task goes to the end of `maniple.retry` itself, which has no limit: behind the others, so
        that it holds up none of them, until there is room somewhere.
        """
        bundler = self._bundlers.get((waiting.tier, insist))
        if bundler is None:  # one that is empty is false
            send = partial(self._send, waiting.tier, insist=insist)
            bundler = self._bundlers[waiting.tier, insist] = Bundler(send)
        envelope = waiting.envelope
        bundler.add((envelope, done), len(envelope.payload) + BESIDES_PAYLOAD)

    async def drain(self) -> None:
        """Return when everything has been sent."""
        for bundler in list(self._bundlers.values()):
            await bundler.drain()

    async def _send(self, tier: float, waiters: list[Waiter], *, insist: bool) -> None:
        error: ManipleError | None = None
        body = encode([envelope for envelope, _ in waiters])
        try:
            await (self._insist if insist else self._publish)(tier, body)
        except Exception as failure:  # noqa: BLE001 - whatever it was, each task must hear of it
            error = as_ours(failure)
        else:
            self._metrics.counter(BUNDLES_SENT, DELAY.name).inc()
            self._metrics.counter(BYTES_SENT, DELAY.name).inc(len(body))
            self._metrics.histogram(BUNDLE_TASKS, DELAY.name).observe(len(waiters))
        tell((done for _, done in waiters), error)

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
