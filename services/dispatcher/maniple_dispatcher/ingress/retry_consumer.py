"""Admitted tasks that come back from a wait in the broker."""

from collections.abc import Callable
from datetime import datetime
from functools import partial

from msgspec.structs import replace

from maniple.amqp import Delivery
from maniple.codec import decode_members
from maniple.errors import InvalidMessage
from maniple.messages import Envelope, without_room
from maniple.topology import RETRY_QUEUE
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.bundle_members import BundleMembers
from maniple_dispatcher.ingress.redelivered_tasks import RedeliveredTasks
from maniple_dispatcher.pipeline.pipeline import Pipeline
from maniple_dispatcher.pipeline.verdicts import is_due, waited_for
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.publish.refused_log import RefusedLog


class RetryConsumer:
    """Takes what comes back from `maniple.delay`: admitted already, only the door is tried again.

    Cancellation, deadline, breaker, bulkhead and lane are looked at again; nothing is decided
    twice. What is not due yet goes round once more.
    """

    def __init__(  # noqa: PLR0913 - where what comes back may go
        self,
        lanes: LanePublisher,
        pipeline: Pipeline,
        log: RefusedLog,
        clock: Callable[[], datetime],
        *,
        traces: DispatchTracing,
        again: RedeliveredTasks | None = None,
    ) -> None:
        """Send what is due to `pipeline`; keep what cannot be read in `log`."""
        self._again = again
        self._traces = traces
        self._lanes = lanes
        self._pipeline = pipeline
        self._log = log
        self._members = BundleMembers(lanes, log, clock)
        self._clock = clock

    def on_retry(self, delivery: Delivery) -> None:
        """Bring on their way the tasks of one message from `maniple.retry`."""
        try:
            # What waits has no room, though its envelope may still name what it had.
            members = [
                without_room(one) if isinstance(one, Envelope) else one
                for one in decode_members(delivery.body, Envelope)
            ]
        except InvalidMessage as error:
            origin = {"routing_key": RETRY_QUEUE.name}
            self._log.keep(delivery.body, error, origin, Settlement(delivery, 1).settle)
            return
        if not members:
            delivery.ack()
        source = Settlement(delivery, len(members))
        onward = partial(self._take_member, again=delivery.redelivered)
        if delivery.redelivered and self._again is not None:
            onward = partial(self._again.on_returned_task, onward=onward)
        self._members.bring(members, source, onward, RETRY_QUEUE.name)

    def _take_member(self, envelope: Envelope, source: Settlement, *, again: bool) -> None:
        now = self._clock()
        back = replace(
            self._traces.returned(envelope, now), dispatched_at=now, again=again or envelope.again
        )
        if back.again and self._again is not None and self._lanes.is_over(back, now):
            since = (now - back.submitted_at).total_seconds()
            self._again.on_returned_task(back, source, self._end, since=since)
            return
        if self._lanes.ends(back, source, now, waiting=waited_for(envelope)):
            return
        if is_due(back, now):
            due = replace(back, not_before=None) if back.not_before else back
            self._pipeline.again(due, source)
        else:
            self._lanes.wait_on(back, source)

    def _end(self, envelope: Envelope, source: Settlement) -> None:
        """End what is over, and of which no copy has come to its end or its lane."""
        self._lanes.ends(envelope, source, self._clock(), waiting=waited_for(envelope))
