"""The way out of a dispatcher: lanes, waits, results; and the source that all of it settles."""

from collections.abc import Callable
from datetime import datetime

from msgspec.structs import replace

from maniple.codec import encode
from maniple.errors import ManipleError, PublishRefused
from maniple.messages import ACCEPTED_TYPE, ENVELOPES_TYPE, Envelope, Result, TaskAccepted
from maniple.service.names import TASKS_ACCEPTED, TASKS_DELAYED, TASKS_REJECTED
from maniple.service.outlets import RECORD_PATIENCE, Outlet, ResultOutlet
from maniple.service.settlement import Settlement
from maniple.service.telemetry import Metrics
from maniple.topology import ACCEPTED_KEY, DELAY, EVENTS, LANES, lane_key, tier_name
from maniple.transport import Publisher
from maniple_dispatcher.domain.routing import (
    Wait,
    Waiting,
    expired,
    overloaded,
    rest_of,
    wait,
)

RETRY_AFTER = 5.0


class Lanes:
    """Sends admitted tasks to their lanes, in bundles; what a lane refuses waits in the broker."""

    def __init__(
        self,
        publisher: Publisher,
        results: ResultOutlet,
        metrics: Metrics,
        clock: Callable[[], datetime],
        *,
        size_of: Callable[[str], int],
    ) -> None:
        """Publish through `publisher`; a bundle of a lane carries at most `size_of(lane)` tasks."""
        self._lanes = Outlet(publisher, LANES, ENVELOPES_TYPE).limited(size_of).measured(metrics)
        self._delay = Outlet(publisher, DELAY, ENVELOPES_TYPE).measured(metrics)
        self._events = (
            Outlet(publisher, EVENTS, ACCEPTED_TYPE, insist=True)
            .patient(RECORD_PATIENCE)
            .measured(metrics)
        )
        self._results = results
        self._metrics = metrics
        self._clock = clock

    def resize(self, lane: str, size: int) -> None:
        """Let bundles of `lane` carry at most `size` tasks."""
        self._lanes.limit(lane, size)

    def send(self, envelope: Envelope, source: Settlement) -> None:
        """Bring one task on its way; `source` is settled when its lane or its wait is confirmed."""
        key = lane_key(envelope.lane, envelope.lost)

        def sent(error: ManipleError | None) -> None:
            if error is None:
                self._accepted(envelope, source)
            elif isinstance(error, PublishRefused):
                self._wait(envelope, source, error)
            else:
                source.settle(error)

        # What comes back from the lane has been accepted, and is not announced again.
        self._lanes.add(key, encode(replace(envelope, accepted=True)), sent)

    def end(self, result: Result, envelope: Envelope, source: Settlement) -> None:
        """Publish the terminal result of a task that goes no further."""
        if result.error is not None:
            self._metrics.counter(TASKS_REJECTED, result.error.code.value).inc()
        self._results.report(result, envelope.reply_to, envelope.correlation_id, source.settle)

    async def drain(self) -> None:
        """Return when everything on its way has been confirmed."""
        await self._lanes.drain()
        await self._delay.drain()
        await self._events.drain()

    def _accepted(self, envelope: Envelope, source: Settlement) -> None:
        if envelope.accepted:
            source.settle()
            return
        self._metrics.counter(TASKS_ACCEPTED, envelope.capability).inc()
        accepted = TaskAccepted(
            id=envelope.id,
            capability=envelope.capability,
            lane=envelope.lane,
            tenant=envelope.tenant,
            labels=envelope.labels,
            policies=envelope.policies,
            submitted_at=envelope.submitted_at,
            dispatched_at=envelope.dispatched_at or envelope.submitted_at,
            deadline=envelope.deadline,
            traceparent=envelope.traceparent,
        )
        self._events.add(ACCEPTED_KEY, encode(accepted), source.settle)

    def _wait(self, envelope: Envelope, source: Settlement, refusal: PublishRefused) -> None:
        now = self._clock()
        reason = Waiting.NO_AGENT if refusal.unroutable else Waiting.OVERLOADED
        if envelope.deadline <= now:
            self.end(expired(envelope, now, waiting=reason), envelope, source)
            return
        self._metrics.counter(TASKS_DELAYED, reason.value).inc()
        self._delayed(wait(envelope, now), envelope, source)

    def wait_on(self, envelope: Envelope, source: Settlement) -> None:
        """Let a task that is not due yet wait for another round."""
        self._metrics.counter(TASKS_DELAYED, Waiting.NOT_DUE.value).inc()
        self._delayed(rest_of(envelope, self._clock()), envelope, source)

    def _delayed(self, waiting: Wait, envelope: Envelope, source: Settlement) -> None:

        def delayed(error: ManipleError | None) -> None:
            if isinstance(error, PublishRefused):
                result = overloaded(envelope, self._clock(), RETRY_AFTER)
                self.end(result, envelope, source)
            else:
                source.settle(error)

        self._delay.add(tier_name(waiting.tier), encode(waiting.envelope), delayed)
