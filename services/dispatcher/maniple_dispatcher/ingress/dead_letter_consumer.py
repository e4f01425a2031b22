"""What the broker dead-letters by itself gets its terminal result: nothing just vanishes."""

import dataclasses
import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeGuard

from msgspec.structs import replace

from maniple.amqp import Delivery, Length, length_of
from maniple.codec import decode_members, decode_submission, is_list, peek_identity
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import new_id
from maniple.messages import Envelope, Status, Task, without_room
from maniple.topology import RETRY_QUEUE, SUBMIT, UNROUTED_QUEUE
from maniple_dispatcher.ingress.admission import (
    UNKNOWN,
    admit,
    capability_of,
    claim_of,
    identity,
    is_misshapen,
)
from maniple_dispatcher.ingress.arrival import (
    Arrival,
    RawArrival,
    Redelivery,
    bare_arrival,
    check_arrival,
    raw_arrival,
)
from maniple_dispatcher.ingress.long_messages import LongMessages, Steps
from maniple_dispatcher.ingress.redelivered_tasks import Asker, RedeliveredTasks
from maniple_dispatcher.ingress.refusal import (
    MOST,
    Refusal,
    Refused,
    as_one,
    refusal_of,
    refusals_of,
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
EXPIRED = "expired"
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
                raw = dataclasses.replace(raw, routing_key=_death(delivery, "routing-keys"))
                arrival = bare_arrival(raw, now)
                itself = bool(_death(delivery, "original-expiration"))
                ending = self._of_submission(delivery.body, raw, arrival, reason, itself=itself)
                ends = yield from ending
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

    def _of_submission(
        self, body: bytes, raw: RawArrival, arrival: Arrival, reason: str, *, itself: bool
    ) -> Generator[None, None, list[End]]:
        """Return what ends each member; `itself` says when it expires, if its queue does not."""
        members, refused = _refused_members(body, arrival, reason)
        checked = _checked(raw, arrival.received_at)
        good: list[Task | None] = []
        bad: list[bool] = []
        for member in members:
            yield
            good.append(member if checked is not None and _is_good(member, checked) else None)
            bad.append(checked is None or _is_misshapen(member, checked))
        if sum(bad) > MOST:
            error = refused[bad.index(True)].error
            refused = [one for one, is_bad in zip(refused, bad, strict=True) if not is_bad]
            good = [task for task, is_bad in zip(good, bad, strict=True) if not is_bad]
            refused.append(as_one(error, arrival, others=bool(good)))
            bad = [False for _ in good] + [True]
            good.append(None)
        refusals = list(refusals_of(refused, (), arrival, new_id))
        if reason == EXPIRED:
            refusals = [_expired(refusal) for refusal in refusals]
        return [
            partial(self._refuse, refusal, arrival, offered=is_bad)
            if task is None or checked is None or reason != EXPIRED
            else partial(self._expire, _Expired(refusal, checked, task, itself))
            for task, refusal, is_bad in zip(good, refusals, bad, strict=True)
        ]

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

    def _expire(self, one: "_Expired", source: Settlement) -> None:
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

    def _end(self, one: "_Expired", source: Settlement, found: Record | None) -> None:
        """End a task that expired if it never left a dispatcher; one that may have goes on.

        Of one that nothing charges that is on record only if its message said when it expires.
        """
        answer = one.refusal.answer
        never_left = found is None and one.itself
        if not never_left and self._again is not None and self._admitted is not None:
            # No ceiling refuses it: it may have been admitted before that was lowered.
            arrival = dataclasses.replace(one.arrival, before=Redelivery.DELIVERED)
            envelope, resolved = self._admitted(one.task, arrival, answer.id)
            if found is not None or not is_charged(resolved):
                self._again.bring(envelope, resolved, source, arrival.before, found)
                return
        arrival = one.arrival
        self._results.report_result(answer, arrival.reply_to, arrival.correlation_id, source.settle)


@dataclass(frozen=True, slots=True)
class _Expired:
    """A good task that expired in a queue of submissions, and what is told of it if it ends so."""

    refusal: Refusal
    arrival: Arrival
    task: Task
    itself: bool
    """Its message said when it expires, not its queue."""


def _unreadable(arrival: Arrival) -> Refusal:
    error = InvalidMessage(ErrorCode.UNDECODABLE, "the broker gave it up, and it cannot be read")
    refused = dataclasses.replace(whole(error, arrival), capability=UNKNOWN)
    return refusal_of(refused, arrival, new_id)


def _refused_members(
    body: bytes, arrival: Arrival, reason: str
) -> tuple[Sequence[Task | InvalidMessage], list[Refused]]:
    """Return the members of a submission that no dispatcher settled, and what is told of each.

    A dispatcher may have admitted it, before it died: so it has no claim on its identity.
    """
    code = ErrorCode.DEADLINE_EXCEEDED if reason == EXPIRED else ErrorCode.UNDECODABLE
    error = InvalidMessage(code, f"no dispatcher took it: the broker gave it up ({reason})")
    try:
        members = decode_submission(body)
        is_array = is_list(body)
    except InvalidMessage as unreadable:
        members, is_array = [unreadable], False
    refused = [
        _refused(member, error, arrival, position if is_array else None)
        for position, member in enumerate(members)
    ]
    return members, refused


def _refused(
    member: Task | InvalidMessage, error: InvalidMessage, arrival: Arrival, position: int | None
) -> Refused:
    known = peek_identity(member.body or b"") if isinstance(member, InvalidMessage) else member
    claimed = known.id or claim_of(arrival, position)
    return Refused(error, claimed, known.tenant, known.capability, position)


def _checked(raw: RawArrival, now: datetime) -> Arrival | None:
    """Return the properties of a message that a dispatcher would have looked into."""
    try:
        return check_arrival(raw, now)
    except InvalidMessage:
        return None


def _is_misshapen(member: Task | InvalidMessage, arrival: Arrival) -> bool:
    return isinstance(member, InvalidMessage) or is_misshapen(member, arrival.routing_key)


def _is_good(member: Task | InvalidMessage, arrival: Arrival) -> TypeGuard[Task]:
    """Tell whether a dispatcher would have admitted it, had it come in time."""
    if isinstance(member, InvalidMessage):
        return False
    try:
        capability = capability_of(member, arrival.routing_key)
        admit(
            member,
            arrival,
            task_id=identity(member.id, arrival, None, new_id),
            capability=capability,
            decided=Resolved(),
            traceparent="",
        )
    except InvalidMessage:
        return False
    return True


def _expired(refusal: Refusal) -> Refusal:
    record, answer = refusal.record, refusal.answer
    return Refusal(replace(record, status=Status.EXPIRED), replace(answer, status=Status.EXPIRED))


def _death(delivery: Delivery, name: str) -> str:
    """Return what the broker says of the first death: its `reason`, or its first routing key."""
    deaths: Any = delivery.headers.get("x-death")
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], dict):
        return ""
    value = deaths[0].get(name)
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""
