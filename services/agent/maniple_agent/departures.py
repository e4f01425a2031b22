"""What leaves an agent: results, other attempts, and tasks that go back to a lane."""

from collections.abc import Callable
from time import monotonic

from msgspec.structs import replace

from maniple.attempts import Again
from maniple.codec import encode
from maniple.errors import ManipleError, PublishRefused
from maniple.messages import ENVELOPES_TYPE, RUNNING_TYPE, Envelope, Result, TaskRunning, Waiting
from maniple.service.done import Done
from maniple.service.names import HANDED_BACK, RESULTS, TASKS_RETRIED
from maniple.service.outlets import Outlet, ResultOutlet
from maniple.service.telemetry import Metrics
from maniple.service.under_way import Ticket, UnderWay
from maniple.timings import Queues
from maniple.topology import (
    DELAY,
    DELAY_TIERS,
    EVENTS,
    LANES,
    RUNNING_KEY,
    other_tier,
    tier_name,
)
from maniple.transport import Publisher
from maniple_agent.traces import Traces

REFUSED_PAUSE = 1.0


class _Withdrawn(ManipleError):
    """It was not sent, because what was sent before it is not confirmed."""


class _Leaving:
    """A `done` of what may have to go another way."""

    __slots__ = ("done", "instead", "outlet", "ticket", "told")
    ticket: Ticket["_Leaving"]
    told: Callable[["_Leaving", ManipleError | None], None]

    def __init__(self, outlet: Outlet, done: Done, instead: Callable[[], None]) -> None:
        self.outlet, self.done, self.instead = outlet, done, instead

    def __call__(self, error: ManipleError | None) -> None:
        self.told(self, error)


class Departures:
    """Publishes with confirms; every `done` is called once what was published is safe.

    A lane or a delay tier that confirms nothing for some seconds, while others do, does not hold up
    what came with a task: a copy of it waits elsewhere in the broker (`maniple.service.under_way`).
    """

    def __init__(
        self,
        publisher: Publisher,
        results: ResultOutlet,
        metrics: Metrics,
        *,
        traces: Traces,
        times: Queues | None = None,
    ) -> None:
        """Publish through `publisher` and `results`."""
        self._traces = traces
        self._results = results
        self._metrics = metrics
        self._lanes = (
            Outlet(publisher, LANES, ENVELOPES_TYPE).limited(lambda _: 1).measured(metrics)
        )
        self._delay = Outlet(publisher, DELAY, ENVELOPES_TYPE).measured(metrics)
        self._refused = Outlet(publisher, DELAY, ENVELOPES_TYPE, insist=True)
        self._events = Outlet(publisher, EVENTS, RUNNING_TYPE, insist=True)
        self._times = times or Queues()
        self._under_way: UnderWay[_Leaving] = UnderWay(self._times.patience)
        self._cancel_at: dict[tuple[Outlet, str], float] = {}

    @property
    def kept(self) -> int:
        """Bytes that have been given here and are not confirmed."""
        outlets = (self._results, self._lanes, self._delay, self._refused)
        return sum(outlet.kept for outlet in outlets)

    def publish(self, result: Result, envelope: Envelope, done: Done) -> None:
        """Record a result and reply to whoever asked."""
        variant = (result.lane or "").partition("@")[2]
        self._metrics.counter(RESULTS, result.capability, variant, result.status.value).inc()
        result, done = self._traces.ending(result, envelope, done)
        if self._under_way.waits:
            done = self._answering(done)
        self._results.report(result, envelope.reply_to, envelope.correlation_id, done)

    def _answering(self, done: Done) -> Done:
        """Let what waits elsewhere know by this confirm that the broker answers."""
        since = monotonic()

        def answered(error: ManipleError | None) -> None:
            self._under_way.answered(since)
            done(error)

        return answered

    def retry(self, again: Again, final: Callable[[], Result], done: Done) -> None:
        """Let a task wait in the broker for another attempt; without room it ends as `final`."""
        envelope = _without_room(again.envelope)
        self._metrics.counter(TASKS_RETRIED, envelope.capability).inc()

        def delayed(error: ManipleError | None) -> None:
            if not isinstance(error, PublishRefused):
                done(error)
                return
            self.publish(final(), envelope, done)

        encoded = encode(envelope)
        self._try(
            self._delay,
            tier_name(again.tier),
            encoded,
            delayed,
            lambda: self._wait(encoded, done, other_tier(again.tier)),
        )

    def running(self, event: TaskRunning) -> None:
        """Record that an attempt has been running for a second."""
        self._events.add(RUNNING_KEY, encode(event), lambda _: None)

    def alone(
        self,
        key: str,
        envelope: Envelope,
        reason: str,
        done: Done,
        keep: Callable[[str | None], object],
    ) -> None:
        """Publish one task alone to a lane; if that is full, gone or stuck, it waits elsewhere.

        `keep` is told of room that it has there, or may have.
        """
        self._metrics.counter(HANDED_BACK, reason).inc()

        def wait(why: Waiting) -> None:
            waiting = replace(envelope, waited_for=why.value, bulkhead=None)
            self._wait(encode(waiting), done, REFUSED_PAUSE)

        def sent(error: ManipleError | None) -> None:
            if isinstance(error, PublishRefused):
                wait(Waiting.NO_AGENT if error.unroutable else Waiting.OVERLOADED)
                return
            keep(envelope.bulkhead)
            done(error)

        def unconfirmed() -> None:
            keep(envelope.bulkhead)
            wait(Waiting.UNCONFIRMED)

        self._try(self._lanes, key, encode(envelope), sent, unconfirmed)

    def _wait(self, encoded: bytes, done: Done, tier: float) -> None:
        """Let a task wait in a tier, or in another if that does not confirm."""
        self._try(
            self._refused,
            tier_name(tier),
            encoded,
            done,
            lambda: self._wait(encoded, done, other_tier(tier)),
        )

    def _try(
        self, outlet: Outlet, key: str, encoded: bytes, done: Done, instead: Callable[[], None]
    ) -> None:
        """Publish, and do something `instead` if that is not confirmed while others are."""
        exchange = LANES if outlet is self._lanes else DELAY
        leaving = _Leaving(outlet, done, instead)
        leaving.ticket = self._under_way.begin((exchange.name, key), leaving, monotonic())
        leaving.told = self._told
        outlet.add(key, encoded, leaving)

    def _told(self, leaving: "_Leaving", error: ManipleError | None) -> None:
        """Take what became of a publish."""
        is_answer = error is None or isinstance(error, PublishRefused)
        ended = self._under_way.end if is_answer else self._under_way.withdraw
        if not ended(leaving.ticket):
            return  # something else was done about it
        if isinstance(error, _Withdrawn):
            leaving.instead()
        else:
            leaving.done(error)

    def look(self, *, taking: bool) -> None:
        """Do something else about what is not confirmed for too long; to be called now and then.

        While the broker is not `taking` anything (away, or an alarm) nobody's time counts.
        """
        now = monotonic()
        if not taking:
            self._under_way.renew(now)
            return
        overdue = self._under_way.overdue(now)
        for ticket in overdue:
            ticket.item.instead()
        for outlet, key in {(ticket.item.outlet, ticket.key[1]) for ticket in overdue}:
            self._cancel_at.setdefault((outlet, key), now + self._times.cancel)
            for leaving in outlet.withdraw(key):
                leaving(_Withdrawn("what was sent before it is not confirmed"))
        for outlet, key in [at for at, due in self._cancel_at.items() if due <= now]:
            del self._cancel_at[outlet, key]
            outlet.cancel(key, self._is_given_up)

    def _is_given_up(self, done: Done) -> bool:
        return isinstance(done, _Leaving) and self._under_way.is_given_up(done.ticket)

    def ask(self, envelope: Envelope, done: Done) -> None:
        """Have a dispatcher judge whether a task's time is over: it ends there, or comes back."""
        self._metrics.counter(HANDED_BACK, "deadline").inc()
        self._wait(encode(_without_room(envelope)), done, DELAY_TIERS[0])

    async def drain(self) -> None:
        """Return when everything has been confirmed."""
        await self._lanes.drain()
        await self._refused.drain()
        await self._delay.drain()
        await self._events.drain()
        await self._results.drain()


def _without_room(envelope: Envelope) -> Envelope:
    """Return a task that waits: it takes no room in a bulkhead."""
    return envelope if envelope.bulkhead is None else replace(envelope, bulkhead=None)
