"""Waiting in the broker: a task that finds no room there either ends, or goes round."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from maniple.amqp import Outgoing, Publisher
from maniple.amqp.batching import Bundler
from maniple.clock import Clock
from maniple.codec import encode
from maniple.delay_tiers import other_tier
from maniple.errors import ManipleError, PublishRefused
from maniple.identifiers import new_id
from maniple.messages import ENVELOPES_TYPE, Waiting
from maniple.timings import Queues
from maniple.topology import DEFAULT, DELAY, RETRY_QUEUE
from maniple_dispatcher.pipeline.verdicts import Wait, shorter
from maniple_runtime.destination_backoff import TIER_KEYS, DestinationBackoff, tiers_for
from maniple_runtime.metric_names import BUNDLE_TASKS, BUNDLES_SENT, BYTES_SENT, PUBLISHES_REFUSED
from maniple_runtime.publish.confirm import (
    ConfirmCallback,
    InFlightPublish,
    InFlightPublishes,
    Key,
    as_ours,
    tell,
)
from maniple_runtime.telemetry import Metrics

# What goes round without a wait is looked at again so seldom.
ROUND = 0.1
LATE = 5.0  # seconds after its deadline that a task may come back from a tier it had not chosen
BESIDES_PAYLOAD = 512  # bytes of an envelope, about
RETRY: Key = (DEFAULT.name, RETRY_QUEUE.name)


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What is to wait, and whom to tell."""

    waiting: Wait
    done: ConfirmCallback
    insist: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A task on its way to a tier."""

    task: _Task
    ticket: InFlightPublish[_Task]


class DelayPublisher:
    """Publishes to the tiers of `maniple.delay`.

    What waits in numbers is looked at again and again, so it must cost little: the tasks of a
    bundle are encoded together. From a tier that confirms nothing, while others do, they go to
    another, but none that is longer than a task has yet: the source messages that they hold up are
    those of all lanes. Hardly anything is sent to such a tier any more; while all are such, tasks
    wait here for the next that may be tried.
    """

    def __init__(
        self,
        publisher: Publisher,
        metrics: Metrics,
        times: Queues | None = None,
        *,
        clock: Clock,
    ) -> None:
        """Publish through `publisher`; `clock` is that of deadlines."""
        self._clock, self._monotonic = clock.now, clock.monotonic
        self._publisher = publisher
        self._metrics = metrics
        self._refusals = metrics.counter(PUBLISHES_REFUSED, DELAY.name)
        self._bundlers: dict[tuple[Key, bool], Bundler[_Waiter]] = {}
        self._times = times or Queues()
        self._in_flight: InFlightPublishes[_Task] = InFlightPublishes(self._times.patience)
        self.answered = self._in_flight.answered
        """Records that the broker has confirmed something else that was sent at a time."""
        self._backoff = DestinationBackoff(self._times)
        self._cancel_at: dict[Key, float] = {}
        self._pausing = 0

    def delay_task(self, waiting: Wait, done: ConfirmCallback, *, insist: bool) -> None:
        """Publish a task to its tier; `done` when that is confirmed, or, without `insist`, refused.

        With `insist` a full tier is passed over for the next shorter one. When none has room the
        task goes to the end of `maniple.retry` itself, which has no limit: behind the others, so
        that it holds up none of them, until there is room somewhere. Each is a publish of its own:
        a refusal shows that nothing was stored.
        """
        self._wait(_Task(waiting, done, insist), waiting.tier)

    def _wait(self, task: _Task, tier: float) -> None:
        key, now = TIER_KEYS[tier][0], self._monotonic()
        if self._backoff.refusal(key, now) is not None:
            key, rest = self._backoff.first(tiers_for(tier, self._left(task)), now)
            if rest:
                self._later(rest, partial(self._wait, task, tier))
                return
        self._put(task, key)

    def _left(self, task: _Task) -> float:
        """Return for how many seconds a task may wait; a little longer if its time is over."""
        return max((task.waiting.envelope.deadline - self._clock()).total_seconds(), LATE)

    def _put(self, task: _Task, key: Key) -> None:
        bundler = self._bundlers.get((key, task.insist))
        if bundler is None:  # one that is empty is false
            send = partial(self._start, key, insist=task.insist)
            bundler = self._bundlers[key, task.insist] = Bundler(send)
        ticket = self._in_flight.begin(key, task, self._monotonic())
        size = len(task.waiting.envelope.payload) + BESIDES_PAYLOAD
        bundler.add(_Waiter(task, ticket), size)

    def _later(self, seconds: float, go_on: Callable[[], None]) -> None:
        def then() -> None:
            self._pausing -= 1
            go_on()

        self._pausing += 1
        asyncio.get_running_loop().call_later(seconds, then)

    def redirect_overdue(self, *, taking: bool) -> None:
        """Send elsewhere what is not confirmed for too long; to be called now and then.

        While the broker is not `taking` anything (away, or an alarm) nobody's time counts.
        """
        now = self._monotonic()
        if not taking:
            self._in_flight.renew(now)
            return
        overdue = self._in_flight.overdue(now)
        stuck = {ticket.key for ticket in overdue}
        for key in stuck:
            self._backoff.shut(key, Waiting.UNCONFIRMED, now)
        for ticket in overdue:
            # That tier may have it, so it may run: it does not end for want of room in another.
            self._elsewhere(replace(ticket.item, insist=True), ticket.key)
        for key in stuck:
            self._cancel_at.setdefault(key, now + self._times.cancel)
            for bundler in self._of(key):
                for waiter in bundler.withdraw():
                    if self._in_flight.withdraw(waiter.ticket):
                        self._elsewhere(waiter.task, key)
        for key in [key for key, at in self._cancel_at.items() if at <= now]:
            del self._cancel_at[key]
            for bundler in self._of(key):
                bundler.cancel(lambda waiter: self._in_flight.is_given_up(waiter.ticket))

    def _elsewhere(self, task: _Task, key: Key) -> None:
        tier = task.waiting.tier
        self._wait(task, tier if key == RETRY else other_tier(float(key[1]), self._left(task)))

    def _of(self, key: Key) -> list[Bundler[_Waiter]]:
        return [bundler for (at, _), bundler in self._bundlers.items() if at == key]

    async def drain_delays(self) -> None:
        """Return when everything has been sent."""
        while self._pausing or not all(bundler.idle for bundler in self._bundlers.values()):
            for bundler in list(self._bundlers.values()):
                await bundler.drain()
            if self._pausing:
                await asyncio.sleep(ROUND)

    def _start(self, key: Key, waiters: list[_Waiter], *, insist: bool) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._send(key, waiters, insist=insist))

    async def _send(self, key: Key, waiters: list[_Waiter], *, insist: bool) -> None:
        error: ManipleError | None = None
        body = encode([waiter.task.waiting.envelope for waiter in waiters])
        try:
            await self._publish(key, body)
        except Exception as failure:  # noqa: BLE001 - whatever it was, each task must hear of it
            error = as_ours(failure)
        else:
            self._metrics.counter(BUNDLES_SENT, DELAY.name).inc()
            self._metrics.counter(BYTES_SENT, DELAY.name).inc(len(body))
            self._metrics.histogram(BUNDLE_TASKS, DELAY.name).observe(len(waiters))
        refused = isinstance(error, PublishRefused)
        if error is None or refused:
            self._backoff.reopen(key)
        ended = self._in_flight.end if error is None or refused else self._in_flight.withdraw
        tasks = [waiter.task for waiter in waiters if ended(waiter.ticket)]
        if refused and insist:
            for task in tasks:
                self._has_no_room(task, key)
        else:
            tell([task.done for task in tasks], error)

    def _has_no_room(self, task: _Task, key: Key) -> None:
        """Try the next shorter tier that may be tried, then `maniple.retry`, then all of them."""
        if key == RETRY:
            self._later(ROUND, partial(self._wait, task, task.waiting.tier))
            return
        tier = shorter(float(key[1]))
        while tier is not None:
            key = TIER_KEYS[tier][0]
            if self._backoff.refusal(key, self._monotonic()) is None:
                self._put(task, key)
                return
            tier = shorter(tier)
        self._put(task, RETRY)

    async def _publish(self, key: Key, body: bytes) -> None:
        exchange, routing_key = key
        message = Outgoing(exchange, routing_key, body, message_id=new_id(), type=ENVELOPES_TYPE)
        try:
            await self._publisher.publish(message)
        except PublishRefused:
            if exchange == DELAY.name:
                self._refusals.inc()
            raise
