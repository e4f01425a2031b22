"""What leaves an agent without having ended: other attempts, and tasks that go back to a lane."""

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from maniple.amqp import Publisher
from maniple.attempts import NextAttempt
from maniple.codec import encode
from maniple.delay_tiers import other_tier
from maniple.errors import ManipleError, PublishRefused
from maniple.messages import (
    ENVELOPES_TYPE,
    RUNNING_TYPE,
    Envelope,
    TaskRunning,
    Waiting,
    without_room,
)
from maniple.timings import Queues
from maniple.topology import (
    DELAY,
    DELAY_TIERS,
    EVENTS,
    LANES,
    RUNNING_KEY,
    tier_name,
)
from maniple_agent.leaving import LONGEST_PAUSE, Leaving, LeavingTask, Withdrawn
from maniple_runtime.destination_backoff import TIER_KEYS, DestinationBackoff, tiers_for
from maniple_runtime.metric_names import HANDED_BACK, TASKS_RETRIED
from maniple_runtime.publish.batch_options import BatchOptions
from maniple_runtime.publish.batch_publisher import BatchPublisher, ResultPublisher
from maniple_runtime.publish.confirm import ConfirmCallback, InFlightPublishes
from maniple_runtime.telemetry import Metrics

REFUSED_PAUSE = 1.0


class AgentPublisher:
    """Publishes with confirms; every `done` is called once what was published is safe.

    A lane or a delay tier that confirms nothing for some seconds, while others do, does not hold up
    what came with a task: a copy of it waits elsewhere in the broker
    (`InFlightPublishes`), if it `may_copy`. One that must not run twice goes elsewhere
    only as long as it was never sent.
    """

    def __init__(
        self,
        publisher: Publisher,
        results: ResultPublisher,
        metrics: Metrics,
        *,
        times: Queues | None = None,
        monotonic: Callable[[], float],
    ) -> None:
        """Publish through `publisher` and `results`."""
        self.results = results
        self._monotonic = monotonic
        self._metrics = metrics
        alone = BatchOptions(size_of=lambda _: 1, metrics=metrics)
        self._lanes = BatchPublisher(publisher, LANES, ENVELOPES_TYPE, alone)
        counted, insisting = BatchOptions(metrics=metrics), BatchOptions(insist=True)
        self._delay = BatchPublisher(publisher, DELAY, ENVELOPES_TYPE, counted)
        self._events = BatchPublisher(publisher, EVENTS, RUNNING_TYPE, insisting)
        self._times = times or Queues()
        self.in_flight: InFlightPublishes[Leaving] = InFlightPublishes(self._times.patience)
        """What goes to a lane or a tier; see `answering`."""
        self._backoff = DestinationBackoff(self._times)
        self._cancel_at: dict[tuple[BatchPublisher, str], float] = {}
        self._paused: set[LeavingTask] = set()
        self._changed = asyncio.Event()

    @property
    def kept_bytes(self) -> int:
        """Bytes that have been given here and are not confirmed."""
        outlets = (self.results, self._lanes, self._delay)
        paused = sum(len(task.encoded) for task in self._paused)
        return sum(outlet.kept for outlet in outlets) + paused

    @property
    def results_kept(self) -> int:
        """Bytes of them that are results; the others are copies of tasks that are held."""
        return self.results.kept

    def answering(self, done: ConfirmCallback) -> ConfirmCallback:
        """Return a `done` by which what waits elsewhere hears that the broker answers."""
        since = self._monotonic()

        def answered(error: ManipleError | None) -> None:
            self.in_flight.answered(since)
            done(error)

        return answered

    def retry(
        self,
        again: NextAttempt,
        end: Callable[[Envelope, ConfirmCallback], None],
        done: ConfirmCallback,
        *,
        may_copy: bool,
    ) -> None:
        """Have a task wait in the broker for another attempt; without room `end` tells its end."""
        envelope = without_room(again.envelope)
        self._metrics.counter(TASKS_RETRIED, envelope.capability).inc()

        def delayed(error: ManipleError | None) -> None:
            if not isinstance(error, PublishRefused):
                done(error)
                return
            end(envelope, done)

        encoded = encode(envelope)
        left = (envelope.deadline - (envelope.dispatched_at or envelope.deadline)).total_seconds()
        left = max(left, LONGEST_PAUSE)
        waiting = LeavingTask(encoded, done, may_copy, left)
        if self._backoff.refusal(TIER_KEYS[again.tier][0], self._monotonic()) is not None:
            self._wait(waiting, again.tier)
            return
        self._try(
            self._delay,
            tier_name(again.tier),
            LeavingTask(encoded, delayed, may_copy, left),
            lambda: self._wait(waiting, other_tier(again.tier, left)),
        )

    def running(self, event: TaskRunning) -> None:
        """Record that an attempt has been running for a second."""
        self._events.add_item(RUNNING_KEY, encode(event), lambda _: None)

    def alone(  # noqa: PLR0913 - what is moved, why, and whom to tell
        self,
        key: str,
        envelope: Envelope,
        reason: str,
        done: ConfirmCallback,
        *,
        may_copy: bool,
        keep: Callable[[str | None], object],
    ) -> None:
        """Publish one task alone to a lane; if that is full, gone or stuck, it waits elsewhere.

        `keep` is told of room that it has there, or may have.
        """
        self._metrics.counter(HANDED_BACK, reason).inc()

        def wait(why: Waiting) -> None:
            encoded = encode(replace(envelope, waited_for=why.value, bulkhead=None))
            self._wait(LeavingTask(encoded, done, may_copy), REFUSED_PAUSE)

        def sent(error: ManipleError | None) -> None:
            if isinstance(error, PublishRefused):
                wait(Waiting.NO_AGENT if error.unroutable else Waiting.OVERLOADED)
                return
            keep(envelope.bulkhead)
            done(error)

        def unconfirmed() -> None:
            keep(envelope.bulkhead)
            wait(Waiting.UNCONFIRMED)

        if self._backoff.refusal((LANES.name, key), self._monotonic()) is not None:
            wait(Waiting.UNCONFIRMED)
            return
        task = LeavingTask(encode(envelope), sent, may_copy)
        self._try(self._lanes, key, task, unconfirmed)

    def _wait(self, task: LeavingTask, tier: float) -> None:
        """Have a task wait in a tier, or in another if that does not confirm or has no room.

        While none of them confirms, it waits here for the next that may be tried. A refusal shows
        that nothing was stored: it makes no copy.
        """
        (_, name), rest = self._backoff.first(tiers_for(tier, task.most), self._monotonic())
        if rest:
            self._pause(task, rest, tier)
            return
        other = other_tier(float(name), task.most)

        def sent(error: ManipleError | None) -> None:
            if isinstance(error, PublishRefused):
                self._pause(task, REFUSED_PAUSE, other)
            else:
                task.done(error)

        trying = LeavingTask(task.encoded, sent, task.may_copy, task.most)
        self._try(self._delay, name, trying, lambda: self._wait(task, other))

    def _pause(self, task: LeavingTask, seconds: float, tier: float) -> None:
        """Keep a task for some seconds, and then let it wait in a tier."""

        def go_on() -> None:
            self._paused.discard(task)
            self._wait(task, tier)

        self._paused.add(task)
        asyncio.get_running_loop().call_later(seconds, go_on)

    def _try(
        self, outlet: BatchPublisher, key: str, task: LeavingTask, instead: Callable[[], None]
    ) -> None:
        """Publish, and do something `instead` if that is not confirmed while others are."""
        exchange = LANES if outlet is self._lanes else DELAY
        leaving = Leaving(outlet, task.done, instead, self._told)
        leaving.ticket = self.in_flight.begin(
            (exchange.name, key), leaving, self._monotonic(), may_copy=task.may_copy
        )
        outlet.add_item(key, task.encoded, leaving)

    def _told(self, leaving: Leaving, error: ManipleError | None) -> None:
        """Go on with a task, now that it is known what became of its publish."""
        is_answer = error is None or isinstance(error, PublishRefused)
        ended = self.in_flight.end if is_answer else self.in_flight.withdraw
        self._changed.set()
        # It has what leaves: both would wait for a garbage collection.
        ticket, leaving.ticket = leaving.ticket, None
        if ticket is None:
            return
        if is_answer:
            self._backoff.reopen(ticket.key)
        if not ended(ticket):
            return  # something else was done about it
        if isinstance(error, Withdrawn):
            leaving.instead()
        else:
            leaving.done(error)

    def redirect_overdue(self, *, taking: bool) -> None:
        """Do something else about what is not confirmed for too long; to be called now and then.

        While the broker is not `taking` anything (away, or an alarm) nobody's time counts.
        """
        self.results.drop_late_replies(taking=taking)
        now = self._monotonic()
        if not taking:
            self.in_flight.renew(now)
            return
        overdue, waited_for = self.in_flight.overdue(now), self.in_flight.waited_for(now)
        for stuck in {ticket.key for ticket in overdue} | waited_for:
            self._backoff.shut(stuck, Waiting.UNCONFIRMED, now)
        for ticket in overdue:
            ticket.item.instead()
        for outlet, key in {(ticket.item.outlet, ticket.key[1]) for ticket in overdue}:
            self._cancel_at.setdefault((outlet, key), now + self._times.cancel)
            self._withdraw(outlet, key)
        for exchange, key in waited_for:
            self._withdraw(self._lanes if exchange == LANES.name else self._delay, key)
        for outlet, key in [at for at, due in self._cancel_at.items() if due <= now]:
            del self._cancel_at[outlet, key]
            outlet.cancel(key, self._is_given_up)
        self._changed.set()

    def _withdraw(self, outlet: BatchPublisher, key: str) -> None:
        """Send by another way what was not sent yet."""
        for leaving in outlet.withdraw(key):
            leaving(Withdrawn("what was sent before it is not confirmed"))

    def _is_given_up(self, done: ConfirmCallback) -> bool:
        if not isinstance(done, Leaving):
            return False
        return done.ticket is None or self.in_flight.is_given_up(done.ticket)

    def ask_dispatcher(self, envelope: Envelope, done: ConfirmCallback, *, may_copy: bool) -> None:
        """Have a dispatcher judge whether a task's time is over: it ends there, or comes back."""
        self._metrics.counter(HANDED_BACK, "deadline").inc()
        self._wait(LeavingTask(encode(without_room(envelope)), done, may_copy), DELAY_TIERS[0])

    async def drain_publishes(self) -> None:
        """Return when everything has been confirmed, or what was done instead.

        What a lane refuses or does not confirm goes to a tier, and from there perhaps to another.
        """
        while self.in_flight.waits or self._paused:
            self._changed.clear()
            await self._changed.wait()
        await self._events.drain()
        await self.results.drain_results()
