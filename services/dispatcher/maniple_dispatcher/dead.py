"""What the broker dead-letters by itself gets its terminal result: nothing just vanishes."""

import dataclasses
import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from msgspec.structs import replace

from maniple.codec import decode_members, decode_submission, peek_identity
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import is_refusal, new_id, refusal_id
from maniple.messages import Envelope, Status, Task, without_room
from maniple.records import Record, TaskKey
from maniple.remnants import remnant_of
from maniple.service.done import Done
from maniple.service.names import DEAD_LETTERS
from maniple.service.outlets import ResultOutlet
from maniple.service.policies import Resolved
from maniple.service.settlement import Settlement
from maniple.service.telemetry import OTHER, Metrics
from maniple.topology import RETRY_QUEUE, SUBMIT, UNROUTED_QUEUE
from maniple.transport import Delivery
from maniple_dispatcher.again import NOBODY, Again
from maniple_dispatcher.domain.admission import (
    UNKNOWN,
    Arrival,
    RawArrival,
    admit,
    bare_arrival,
    capability_of,
    check_arrival,
    claim_of,
    identity,
)
from maniple_dispatcher.domain.refusing import Refusal, Refused, refusal_of, refusals_of, whole
from maniple_dispatcher.domain.routing import given_up
from maniple_dispatcher.refusals import tell
from maniple_dispatcher.rooms import Rooms
from maniple_dispatcher.submissions import raw_arrival
from maniple_dispatcher.traces import Traces

BROKER_KEY = "broker."
EXPIRED = "expired"
REASONS = (EXPIRED, "rejected", "maxlen", "delivery_limit")
End = Callable[[Done], None]
"""Tells of one end; what it is called with hears when that is confirmed."""

_log = logging.getLogger(__name__)


class Undeliverable:
    """Takes `maniple.dead.broker`; the bytes themselves are kept in `maniple.dead.log`."""

    def __init__(  # noqa: PLR0913 - what it tells, and by what it finds out
        self,
        results: ResultOutlet,
        metrics: Metrics,
        clock: Callable[[], datetime],
        *,
        traces: Traces,
        rooms: Rooms | None = None,
        again: Again | None = None,
    ) -> None:
        """Send results through `results`; what tasks had in bulkheads goes back by `rooms`.

        What has expired may have been admitted before that, and ended: `again` finds out.
        """
        self._again = again
        self._rooms = rooms or Rooms()
        self._traces = traces
        self._results = results
        self._clock = clock
        # An alert sees a counter rise only from a value that was there before.
        self._seen = {reason: metrics.counter(DEAD_LETTERS, reason) for reason in REASONS}
        self._other = metrics.counter(DEAD_LETTERS, OTHER)

    def take(self, delivery: Delivery) -> None:
        """Publish the terminal result of each task in a message that no consumer settled."""
        reason = _death(delivery, "reason")
        self._seen.get(reason, self._other).inc()
        raw = raw_arrival(delivery)
        arrival = bare_arrival(raw, self._clock())
        queue = delivery.routing_key.removeprefix(BROKER_KEY)
        try:
            if queue in (SUBMIT.name, UNROUTED_QUEUE.name):
                key = _death(delivery, "routing-keys")
                arrival = dataclasses.replace(arrival, routing_key=key)
                raw = dataclasses.replace(raw, routing_key=key)
                ends = self._of_submission(delivery.body, raw, arrival, reason)
            else:
                ends = self._of_tasks(delivery.body, queue, reason)
        except Exception:  # noqa: BLE001 - whatever it was, nobody after us would tell the sender
            _log.exception("a message that the broker gave up cannot be looked into")
            ends = [partial(self._refuse, _unreadable(arrival), arrival)]
        if not ends:
            delivery.ack()
            return
        source = Settlement(delivery, len(ends))
        for end in ends:
            try:
                end(source.settle)
            except Exception:  # noqa: BLE001 - one of them must not cost the others
                _log.exception("a task that the broker gave up cannot be ended")
                self._refuse(_unreadable(arrival), arrival, source.settle)

    def _of_submission(
        self, body: bytes, raw: RawArrival, arrival: Arrival, reason: str
    ) -> list[End]:
        refusals = _refusals(body, raw, arrival, reason)
        end = self._expire if reason == EXPIRED else self._refuse
        return [partial(end, refusal, arrival) for refusal in refusals]

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

    def _give_up(self, envelope: Envelope, why: str, done: Done) -> None:
        """End a task that was admitted."""
        self._rooms.back(envelope)
        result = given_up(envelope, self._clock(), why)
        result, done = self._traces.given_up(result, envelope, done)
        self._results.report(result, envelope.reply_to, envelope.correlation_id, done)

    def _refuse(self, refusal: Refusal, arrival: Arrival, done: Done) -> None:
        """Tell of what no dispatcher has admitted, as far as one can know."""
        tell(self._results, refusal, arrival.reply_to, arrival.correlation_id, done)

    def _expire(self, refusal: Refusal, arrival: Arrival, done: Done) -> None:
        """Tell that the time of a task was over, unless a dispatcher had it, too, before that."""
        if self._again is None or is_refusal(refusal.record.id):  # bad input has no claim
            self._refuse(refusal, arrival, done)
            return
        key = TaskKey(refusal.answer.tenant, refusal.answer.id)
        self._again.look(key, NOBODY, done, partial(self._end, refusal, arrival, done))

    def _end(self, refusal: Refusal, arrival: Arrival, done: Done, found: Record | None) -> None:
        """End a task that expired, under its id only if it never left a dispatcher."""
        if found is not None:
            own = refusal_id(arrival.message_id or new_id(), None)
            refusal = Refusal(replace(refusal.record, id=own), refusal.answer)
        self._refuse(refusal, arrival, done)


def _unreadable(arrival: Arrival) -> Refusal:
    error = InvalidMessage(ErrorCode.UNDECODABLE, "the broker gave it up, and it cannot be read")
    refused = dataclasses.replace(whole(error, arrival), capability=UNKNOWN)
    return refusal_of(refused, arrival, new_id)


def _refusals(body: bytes, raw: RawArrival, arrival: Arrival, reason: str) -> list[Refusal]:
    """Return what is told of each member of a submission that no dispatcher settled.

    A good task whose time was over in the queue ends by that, under its identity. Of any other a
    dispatcher may have admitted it, before it died: so it has no claim on that. Nor has bad input.
    """
    expired = reason == EXPIRED
    code = ErrorCode.DEADLINE_EXCEEDED if expired else ErrorCode.UNDECODABLE
    error = InvalidMessage(code, f"no dispatcher took it: the broker gave it up ({reason})")
    try:
        members = decode_submission(body)
        is_array = body.lstrip()[:1] == b"["
    except InvalidMessage as unreadable:
        members, is_array = [unreadable], False
    refused = [
        _refused(member, error, arrival, position if is_array else None)
        for position, member in enumerate(members)
    ]
    refusals = refusals_of(refused, (), arrival, new_id)
    if not expired:
        return refusals
    return [
        _expired(refusal, is_good=_is_good(member, raw, arrival))
        for refusal, member in zip(refusals, members, strict=True)
    ]


def _refused(
    member: Task | InvalidMessage, error: InvalidMessage, arrival: Arrival, position: int | None
) -> Refused:
    known = peek_identity(member.body or b"") if isinstance(member, InvalidMessage) else member
    claimed = known.id or claim_of(arrival, position)
    return Refused(error, claimed, known.tenant, known.capability, position)


def _is_good(member: Task | InvalidMessage, raw: RawArrival, arrival: Arrival) -> bool:
    """Tell whether a dispatcher would have admitted it, had it come in time."""
    if isinstance(member, InvalidMessage):
        return False
    try:
        checked = check_arrival(raw, arrival.received_at)
        capability = capability_of(member, raw.routing_key)
        task_id = identity(member.id, checked, None, new_id)
        nothing = Resolved()
        admit(
            member,
            checked,
            task_id=task_id,
            capability=capability,
            decided=nothing,
            traceparent="",
        )
    except InvalidMessage:
        return False
    return True


def _expired(refusal: Refusal, *, is_good: bool) -> Refusal:
    record = refusal.answer if is_good else refusal.record
    return Refusal(
        replace(record, status=Status.EXPIRED), replace(refusal.answer, status=Status.EXPIRED)
    )


def _death(delivery: Delivery, name: str) -> str:
    """Return what the broker says of the first death: its `reason`, or its first routing key."""
    deaths: Any = delivery.headers.get("x-death")
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], dict):
        return ""
    value = deaths[0].get(name)
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""
