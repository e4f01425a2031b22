"""New submissions: what is admitted goes to its lane, what is not is told so."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from maniple.codec import decode_submission, encode, peek_identity
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import new_id
from maniple.messages import Envelope, Result, Task
from maniple.service.names import SUBMISSIONS_READ, TASKS_REJECTED, TASKS_SUBMITTED
from maniple.service.outlets import ResultOutlet
from maniple.service.policies import Resolved
from maniple.service.refusals import RefusedLog
from maniple.service.settlement import Settlement
from maniple.service.task_traces import dispatching
from maniple.service.telemetry import Metrics
from maniple.transport import Delivery
from maniple_dispatcher.domain.admission import (
    Arrival,
    RawArrival,
    admit,
    bare_arrival,
    capability_of,
    check_arrival,
    identity,
    message_identity,
    recordable,
    rejection,
    trace_of,
)
from maniple_dispatcher.traces import Traces


class Policies(Protocol):
    """The policies in force."""

    def resolve(
        self, capability: str, tenant: str, labels: Mapping[str, str], task: str = ""
    ) -> Resolved:
        """Say what holds for a task now, with the versions that say so."""
        ...


Onward = Callable[[Envelope, Resolved, Settlement], None]


class Refusals:
    """Tells the sender of bad input, records it, and keeps its bytes."""

    def __init__(self, results: ResultOutlet, log: RefusedLog, metrics: Metrics) -> None:
        """Send through `results` and `log`."""
        self._results = results
        self._log = log
        self._metrics = metrics

    def refuse(
        self,
        error: InvalidMessage,
        result: Result,
        arrival: Arrival,
        body: bytes,
        source: Settlement,
    ) -> None:
        """Send `result`, keep `body`; settles two parts of `source`."""
        self._metrics.counter(TASKS_REJECTED, error.code.value).inc()
        self._results.report(result, arrival.reply_to, arrival.correlation_id, source.settle)
        origin = {
            "routing_key": arrival.routing_key,
            "message_id": arrival.message_id or "",
            "reply_to": arrival.reply_to or "",
            "task_id": result.id,
        }
        self._log.keep(body, error, origin, source.settle)


class Submissions:
    """Admits what outsiders publish. Nothing in a message can stop it or get lost in it."""

    def __init__(  # noqa: PLR0913 - what decides about a task, and where it goes
        self,
        onward: Onward,
        refusals: Refusals,
        policies: Policies,
        metrics: Metrics,
        clock: Callable[[], datetime],
        *,
        traces: Traces,
    ) -> None:
        """Send what is admitted `onward`, what is not to `refusals`."""
        self._traces = traces
        self._onward = onward
        self._refusals = refusals
        self._policies = policies
        self._read = metrics.counter(SUBMISSIONS_READ)
        self._submitted = metrics.counter(TASKS_SUBMITTED)
        self._clock = clock

    def take(self, delivery: Delivery) -> None:
        """Take one message from `maniple.submit`."""
        self._read.inc()
        now = self._clock()
        raw = raw_arrival(delivery)
        try:
            arrival = check_arrival(raw, now)
            members = decode_submission(delivery.body)
        except InvalidMessage as error:
            self._refuse_whole(error, raw, delivery, now)
            return
        self._submitted.inc(len(members))
        decided = self._identified(members, arrival, is_array=delivery.body.lstrip()[:1] == b"[")
        refused = sum(isinstance(item, _Refused) for item in decided)
        source = Settlement(delivery, len(decided) + refused)
        for item in decided:
            if isinstance(item, _Refused):
                self._refuse_member(item, arrival, delivery, source)
            else:
                self._onward(item.envelope, item.resolved, source)

    def _identified(
        self, members: list[Task | InvalidMessage], arrival: Arrival, *, is_array: bool
    ) -> list["_Admitted | _Refused"]:
        seen: set[tuple[str, str]] = set()
        decided: list[_Admitted | _Refused] = []
        for position, member in enumerate(members):
            place = position if is_array else None
            decided.append(self._decided(member, arrival, place, seen))
        return decided

    def _decided(
        self,
        member: Task | InvalidMessage,
        arrival: Arrival,
        position: int | None,
        seen: set[tuple[str, str]],
    ) -> "_Admitted | _Refused":
        if isinstance(member, InvalidMessage):
            known = peek_identity(member.body or b"")
            task_id = known.id or identity(None, arrival, position, new_id)
            return _Refused(member, task_id, known.tenant, known.capability, member.body)
        task_id = identity(member.id, arrival, position, new_id)
        if (member.tenant, task_id) in seen:
            duplicate = InvalidMessage(
                ErrorCode.INVALID_TASK, f"id {task_id!r} stands twice in one array"
            )
            return _refused(duplicate, task_id, member)
        seen.add((member.tenant, task_id))
        try:
            capability = capability_of(member, arrival.routing_key)
            resolved = self._policies.resolve(capability, member.tenant, member.labels, task_id)
            envelope = admit(
                member,
                arrival,
                task_id=task_id,
                capability=capability,
                decided=resolved,
                traceparent=trace_of(member, arrival, self._traces.begun, self._traces.honoured),
            )
            if self._traces.has(envelope):
                envelope = dispatching(envelope)
            return _Admitted(envelope, resolved)
        except InvalidMessage as error:
            return _refused(error, task_id, member)

    def _refuse_member(
        self, item: "_Refused", arrival: Arrival, delivery: Delivery, source: Settlement
    ) -> None:
        result = rejection(
            item.error,
            task_id=item.task_id,
            capability=recordable(item.capability or arrival.routing_key),
            arrival=arrival,
            tenant=item.tenant,
        )
        self._refusals.refuse(item.error, result, arrival, item.body or delivery.body, source)

    def _refuse_whole(
        self, error: InvalidMessage, raw: RawArrival, delivery: Delivery, now: datetime
    ) -> None:
        arrival = bare_arrival(raw, now)
        result = rejection(
            error,
            task_id=message_identity(raw.message_id, new_id),
            capability=recordable(raw.routing_key),
            arrival=arrival,
            tenant="default",
        )
        self._refusals.refuse(error, result, arrival, delivery.body, Settlement(delivery, 2))


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A member that is admitted, with what the policies say about it."""

    envelope: Envelope
    resolved: Resolved


@dataclass(frozen=True, slots=True)
class _Refused:
    """A member that is not admitted, with what is known of it."""

    error: InvalidMessage
    task_id: str
    tenant: str
    capability: str | None
    body: bytes | None


def _refused(error: InvalidMessage, task_id: str, task: Task) -> _Refused:
    return _Refused(error, task_id, task.tenant, task.capability, encode(task))


def raw_arrival(delivery: Delivery) -> RawArrival:
    """Return the properties of a delivery as they came."""
    properties = delivery.properties
    return RawArrival(
        routing_key=delivery.routing_key,
        message_id=properties.message_id or None,
        message_type=properties.message_type or None,
        reply_to=properties.reply_to or None,
        correlation_id=properties.correlation_id or None,
        content_encoding=properties.content_encoding or None,
        timestamp=properties.timestamp,
        headers=delivery.headers,
        redelivered=delivery.redelivered,
    )
