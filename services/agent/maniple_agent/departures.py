"""What leaves an agent: results, other attempts, and tasks that go back to a lane."""

import asyncio
from collections import Counter
from collections.abc import Callable

from msgspec.structs import replace

from maniple.attempts import Again
from maniple.codec import encode
from maniple.errors import ManipleError, PublishRefused
from maniple.messages import ENVELOPES_TYPE, RUNNING_TYPE, Envelope, Result, TaskRunning, Waiting
from maniple.service.done import Done
from maniple.service.names import HANDED_BACK, RESULTS, TASKS_RETRIED
from maniple.service.outlets import Outlet, ResultOutlet
from maniple.service.telemetry import Metrics
from maniple.topology import DELAY, DELAY_TIERS, EVENTS, LANES, RUNNING_KEY, tier_name
from maniple.transport import Publisher
from maniple_agent.traces import Traces

REFUSED_PAUSE = 1.0


class Departures:
    """Publishes with confirms; every `done` is called once what was published is safe."""

    def __init__(
        self,
        publisher: Publisher,
        results: ResultOutlet,
        metrics: Metrics,
        *,
        traces: Traces,
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
        self._ended: Counter[str] = Counter()
        self.left_bulkhead = asyncio.Event()

    @property
    def kept(self) -> int:
        """Bytes that have been given here and are not confirmed."""
        outlets = (self._results, self._lanes, self._delay, self._refused)
        return sum(outlet.kept for outlet in outlets)

    def publish(self, result: Result, envelope: Envelope, done: Done) -> None:
        """Record a result and reply to whoever asked."""
        self._leave_bulkhead(envelope)
        variant = (result.lane or "").partition("@")[2]
        self._metrics.counter(RESULTS, result.capability, variant, result.status.value).inc()
        result, done = self._traces.ending(result, envelope, done)
        self._results.report(result, envelope.reply_to, envelope.correlation_id, done)

    def retry(self, again: Again, final: Callable[[], Result], done: Done) -> None:
        """Let a task wait in the broker for another attempt; without room it ends as `final`."""
        envelope = again.envelope
        self._leave_bulkhead(envelope)
        self._metrics.counter(TASKS_RETRIED, envelope.capability).inc()

        def delayed(error: ManipleError | None) -> None:
            if not isinstance(error, PublishRefused):
                done(error)
                return
            self.publish(final(), replace(envelope, bulkhead=None), done)

        self._delay.add(tier_name(again.tier), encode(envelope), delayed)

    def running(self, event: TaskRunning) -> None:
        """Record that an attempt has been running for a second."""
        self._events.add(RUNNING_KEY, encode(event), lambda _: None)

    def alone(self, key: str, envelope: Envelope, reason: str, done: Done) -> None:
        """Publish one task alone to a lane; if that is full or gone, it waits in the broker."""
        self._metrics.counter(HANDED_BACK, reason).inc()

        def sent(error: ManipleError | None) -> None:
            if isinstance(error, PublishRefused):
                why = Waiting.NO_AGENT if error.unroutable else Waiting.OVERLOADED
                waits = replace(envelope, waited_for=why.value)
                self._refused.add(tier_name(REFUSED_PAUSE), encode(waits), done)
            else:
                done(error)

        self._lanes.add(key, encode(envelope), sent)

    def ask(self, envelope: Envelope, done: Done) -> None:
        """Have a dispatcher judge whether a task's time is over: it ends there, or comes back."""
        self._leave_bulkhead(envelope)
        self._metrics.counter(HANDED_BACK, "deadline").inc()
        self._refused.add(tier_name(DELAY_TIERS[0]), encode(envelope), done)

    def _leave_bulkhead(self, envelope: Envelope) -> None:
        if envelope.bulkhead is not None:
            self._ended[envelope.bulkhead] += 1
            self.left_bulkhead.set()

    def take_ended(self) -> Counter[str]:
        """Return how many tasks have left each bulkhead here since this was last asked for."""
        ended, self._ended = self._ended, Counter()
        return ended

    async def drain(self) -> None:
        """Return when everything has been confirmed."""
        await self._lanes.drain()
        await self._refused.drain()
        await self._delay.drain()
        await self._events.drain()
        await self._results.drain()
