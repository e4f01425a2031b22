"""What the broker dead-letters by itself gets its terminal result: nothing just vanishes."""

import dataclasses
import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from msgspec.structs import replace

from maniple.amqp import Delivery, Length, length_of
from maniple.codec import decode_members
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import new_id
from maniple.messages import Envelope, Task, without_room
from maniple.topology import RETRY_QUEUE, SUBMIT, UNROUTED_QUEUE
from maniple_dispatcher.ingress.admission import (
    UNKNOWN,
    capability_of,
)
from maniple_dispatcher.ingress.arrival import (
    Arrival,
    Redelivery,
    bare_arrival,
    raw_arrival,
)
from maniple_dispatcher.ingress.dead_submission import (
    EXPIRED,
    ExpiredTask,
    RefusedMember,
    dead_members,
)
from maniple_dispatcher.ingress.long_messages import LongMessages, Steps
from maniple_dispatcher.ingress.redelivered_tasks import Asker, RedeliveredTasks
from maniple_dispatcher.ingress.refusal import (
    Refusal,
    refusal_of,
    whole,
)
from maniple_dispatcher.ingress.refusal_sender import tell
from maniple_dispatcher.limits.bulkhead_counts import BulkheadCounts
from maniple_dispatcher.pipeline.stages import is_charged
from maniple_dispatcher.pipeline.verdicts import given_up
from maniple_dispatcher.tracing import DispatchTracing
from maniple_policies import Resolved
from maniple_runtime.metric_names import DEAD_LETTERS
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.records import Record, TaskKey
from maniple_runtime.remnants import remnant_of
from maniple_runtime.telemetry import OTHER, Metrics

BROKER_KEY = "broker."
REASONS = (EXPIRED, "rejected", "maxlen", "delivery_limit")
End = Callable[[Settlement], None]
"""Tells of one end, and settles a part of the source when that is confirmed."""
Admitted = Callable[[Task, Arrival, str], tuple[Envelope, Resolved]]
"""Admits a good task under an id."""

_log = logging.getLogger(__name__)


class DeadLetterConsumer:
    """Takes `maniple.dead.broker`; the bytes themselves are kept in `maniple.dead.log`."""

    def __init__(  # noqa: PLR0913 - what it tells, and by what it finds out
        self,
        results: ResultPublisher,
        metrics: Metrics,
        clock: Callable[[], datetime],
        *,
        traces: DispatchTracing,
        bulkheads: BulkheadCounts,
        long: LongMessages,
        again: RedeliveredTasks | None = None,
        admitted: Admitted | None = None,
    ) -> None:
        """Send results through `results`; what tasks had in bulkheads goes back by `bulkheads`.

        What has expired may have been `admitted` before that, and ended: `again` finds out. What
        is `long` is worked through in slices.
        """
        self._long = long
        self._again = again
        self._admitted = admitted
        self._bulkheads = bulkheads
        self._traces = traces
        self._results = results
        self._clock = clock
        # An alert sees a counter rise only from a value that was there before.
        self._seen = {reason: metrics.counter(DEAD_LETTERS, reason) for reason in REASONS}
        self._other = metrics.counter(DEAD_LETTERS, OTHER)

    def on_dead_letter(self, delivery: Delivery) -> None:
        """Publish the terminal result of each task in a message that no consumer settled."""
        self._long.work_through(delivery, self._steps(delivery))

    def _steps(self, delivery: Delivery) -> Steps:
        reason = _death(delivery, "reason")
        self._seen.get(reason, self._other).inc()
        raw, now = raw_arrival(delivery), self._clock()
        arrival = bare_arrival(raw, now)
        queue = delivery.routing_key.removeprefix(BROKER_KEY)
        try:
            if queue in (SUBMIT.name, UNROUTED_QUEUE.name):
                raw = replace(raw, routing_key=_death(delivery, "routing-keys"))
                arrival = bare_arrival(raw, now)
                itself = bool(_death(delivery, "original-expiration"))
                members = yield from dead_members(
                    delivery.body, raw, arrival, reason, itself=itself
                )
                ends = [self._of_member(one, arrival) for one in members]
            else:
                ends = self._of_tasks(delivery.body, queue, reason)
        except Exception:  # noqa: BLE001 - whatever it was, nobody after us would tell the sender
            _log.exception("a message that the broker gave up cannot be looked into")
            ends = [partial(self._refuse, _unreadable(arrival), arrival, offered=True)]
        if not ends:
            delivery.ack()
            return
        source = Settlement(delivery, 1)  # which is settled after the last
        if length_of(delivery.weight) is not Length.SHORT:
            self._long.watch_source(source)
        for end in ends:
            yield
            source.expect(1)
            try:
                end(source)
            except Exception:  # noqa: BLE001 - one of them must not cost the others
                _log.exception("a task that the broker gave up cannot be ended")
                self._refuse(_unreadable(arrival), arrival, source, offered=False)
        source.settle()

    def _of_member(self, one: ExpiredTask | RefusedMember, arrival: Arrival) -> End:
        if isinstance(one, ExpiredTask):
            return partial(self._expire, one)
        return partial(self._refuse, one.refusal, arrival, offered=one.misshapen)

    def _of_tasks(self, body: bytes, queue: str, reason: str) -> list[End]:
        why = f"the broker gave it up in {queue} ({reason})"
        has_room = queue != RETRY_QUEUE.name  # what waits there has given it back
        try:
            members = decode_members(body, Envelope)
        except InvalidMessage:
            return []  # no task of ours can be read from it; the log has its bytes
        now = self._clock()
        envelopes = [
            remnant_of(member, now) if isinstance(member, InvalidMessage) else member
            for member in members
        ]
        ended = [one if has_room else without_room(one) for one in envelopes if one is not None]
        return [partial(self._give_up, one, why) for one in ended]

    def _give_up(self, envelope: Envelope, why: str, source: Settlement) -> None:
        """End a task that was admitted."""
        self._bulkheads.back(envelope)
        result = given_up(envelope, self._clock(), why)
        result, done = self._traces.given_up(result, envelope, source.settle)
        self._results.report_result(result, envelope.reply_to, envelope.correlation_id, done)

    def _refuse(
        self, refusal: Refusal, arrival: Arrival, source: Settlement, *, offered: bool
    ) -> None:
        """Tell of what no dispatcher has admitted, as far as one can know."""
        tell(self._results, refusal, arrival, source.settle, offered=offered)

    def _expire(self, one: ExpiredTask, source: Settlement) -> None:
        """Tell that the time of a good task was over, unless a dispatcher had it before that."""
        end, arrival = partial(self._end, one, source), one.arrival
        if self._again is None:
            end(None)
            return
        key = TaskKey(one.refusal.answer.tenant, one.refusal.answer.id)
        asker = Asker(
            source.settle,
            arrival.reply_to,
            arrival.correlation_id,
            capability=capability_of(one.task, arrival.routing_key),
        )
        self._again.answer_asker(key, asker, end)

    def _end(self, one: ExpiredTask, source: Settlement, found: Record | None) -> None:
        """End a task that expired if it never left a dispatcher; one that may have goes on.

        Of one that nothing charges that is on record only if its message said when it expires.
        """
        answer = one.refusal.answer
        never_left = found is None and one.itself
        if not never_left and self._again is not None and self._admitted is not None:
            # No ceiling refuses it: it may have been admitted before that was lowered.
            arrival = replace(one.arrival, before=Redelivery.DELIVERED)
            envelope, resolved = self._admitted(one.task, arrival, answer.id)
            if found is not None or not is_charged(resolved):
                self._again.bring(envelope, resolved, source, arrival.before, found)
                return
        arrival = one.arrival
        self._results.report_result(answer, arrival.reply_to, arrival.correlation_id, source.settle)


def _unreadable(arrival: Arrival) -> Refusal:
    error = InvalidMessage(ErrorCode.UNDECODABLE, "the broker gave it up, and it cannot be read")
    refused = dataclasses.replace(whole(error, arrival), capability=UNKNOWN)
    return refusal_of(refused, arrival, new_id)


def _death(delivery: Delivery, name: str) -> str:
    """Return what the broker says of the first death: its `reason`, or its first routing key."""
    deaths: Any = delivery.headers.get("x-death")
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], dict):
        return ""
    value = deaths[0].get(name)
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""
