"""The two ways into a dispatcher: new submissions, and admitted tasks that waited."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from msgspec.structs import replace

from maniple.codec import decode_envelopes, decode_submission, encode, peek_identity
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import new_id
from maniple.messages import MAX_BODY, MAX_NAME, Envelope, RefusedInput, Result, Task
from maniple.service.names import TASKS_REJECTED, TASKS_SUBMITTED
from maniple.service.outlets import RefusedLog, ResultOutlet
from maniple.service.policies import Resolved
from maniple.service.telemetry import Metrics, new_traceparent
from maniple.transport import Delivery
from maniple_dispatcher.domain.admission import (
    Arrival,
    RawArrival,
    admit,
    capability_of,
    check_arrival,
    check_reply_to,
    identity,
    readable,
    trace_of,
)
from maniple_dispatcher.domain.admission import rejection as rejected
from maniple_dispatcher.domain.routing import UNKNOWN, expired
from maniple_dispatcher.lanes import Lanes, Source


class Policies(Protocol):
    """The policies in force."""

    def resolve(self, capability: str, tenant: str, labels: Mapping[str, str]) -> Resolved:
        """Say what holds for a task now, with the versions that say so."""
        ...


class Refusals:
    """Tells the sender of bad input, records it, and keeps its bytes."""

    def __init__(
        self,
        results: ResultOutlet,
        refused: RefusedLog,
        metrics: Metrics,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """Send through `results` and `refused`; `spawn` owns what runs in the background."""
        self._results = results
        self._refused = refused
        self._metrics = metrics
        self._spawn = spawn

    def refuse(
        self, error: InvalidMessage, result: Result, arrival: Arrival, body: bytes, source: Source
    ) -> None:
        """Send `result`, keep `body`; settles two parts of `source`."""
        self._metrics.counter(TASKS_REJECTED, error.code.value).inc()
        self._results.report(result, arrival.reply_to, arrival.correlation_id, source.settle)
        about = RefusedInput(
            code=error.code,
            reason=error.message,
            size=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            truncated=len(body) > MAX_BODY,
        )
        origin = {
            "routing_key": arrival.routing_key,
            "message_id": arrival.message_id or "",
            "reply_to": arrival.reply_to or "",
            "task_id": result.id,
        }
        self._spawn(self._keep(body, about, origin, source))

    async def _keep(
        self, body: bytes, about: RefusedInput, origin: dict[str, str], source: Source
    ) -> None:
        await self._refused.keep(body, about, origin=origin)
        source.settle()


class Submissions:
    """Admits what outsiders publish. Nothing in a message can stop it or get lost in it."""

    def __init__(
        self,
        lanes: Lanes,
        refusals: Refusals,
        policies: Policies,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        """Send what is admitted to `lanes`, what is not to `refusals`."""
        self._lanes = lanes
        self._refusals = refusals
        self._policies = policies
        self._submitted = metrics.counter(TASKS_SUBMITTED)
        self._clock = clock

    def take(self, delivery: Delivery) -> None:
        """Take one message from `maniple.submit`."""
        now = self._clock()
        raw = _raw_arrival(delivery)
        try:
            arrival = check_arrival(raw, now)
            members = decode_submission(delivery.body)
        except InvalidMessage as error:
            self._refuse_whole(error, raw, delivery, now)
            return
        self._submitted.inc(len(members))
        decided = self._identified(members, arrival, is_array=delivery.body.lstrip()[:1] == b"[")
        refused = sum(isinstance(item, _Refused) for item in decided)
        source = Source(delivery, len(decided) + refused)
        for item in decided:
            if isinstance(item, _Refused):
                self._refuse_member(item, arrival, delivery, source)
            elif item.deadline <= now:
                self._lanes.end(expired(item, now), item, source)
            else:
                self._lanes.send(item, source)

    def _identified(
        self, members: list[Task | InvalidMessage], arrival: Arrival, *, is_array: bool
    ) -> list["Envelope | _Refused"]:
        seen: set[tuple[str, str]] = set()
        decided: list[Envelope | _Refused] = []
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
    ) -> "Envelope | _Refused":
        if isinstance(member, InvalidMessage):
            known = peek_identity(member.body or b"")
            task_id = known.id or identity(Task(), arrival, position, new_id)
            return _Refused(member, task_id, known.tenant, known.capability, member.body)
        task_id = identity(member, arrival, position, new_id)
        if (member.tenant, task_id) in seen:
            duplicate = InvalidMessage(
                ErrorCode.INVALID_TASK, f"id {task_id!r} stands twice in one array"
            )
            return _refused(duplicate, task_id, member)
        seen.add((member.tenant, task_id))
        try:
            capability = capability_of(member, arrival.routing_key)
            return admit(
                member,
                arrival,
                task_id=task_id,
                capability=capability,
                decided=self._policies.resolve(capability, member.tenant, member.labels),
                traceparent=trace_of(member, arrival, _new_trace),
            )
        except InvalidMessage as error:
            return _refused(error, task_id, member)

    def _refuse_member(
        self, item: "_Refused", arrival: Arrival, delivery: Delivery, source: Source
    ) -> None:
        result = rejected(
            item.error,
            task_id=item.task_id,
            capability=_recordable(item.capability or arrival.routing_key),
            arrival=arrival,
            tenant=item.tenant,
        )
        self._refusals.refuse(item.error, result, arrival, item.body or delivery.body, source)

    def _refuse_whole(
        self, error: InvalidMessage, raw: RawArrival, delivery: Delivery, now: datetime
    ) -> None:
        arrival = Arrival(
            routing_key=raw.routing_key,
            received_at=now,
            sent_at=now,
            message_id=raw.message_id,
            reply_to=allowed_reply_to(raw.reply_to),
            correlation_id=readable(raw.correlation_id),
        )
        result = rejected(
            error,
            task_id=(raw.message_id or new_id())[:MAX_NAME],
            capability=_recordable(raw.routing_key),
            arrival=arrival,
            tenant="default",
        )
        self._refusals.refuse(error, result, arrival, delivery.body, Source(delivery, 2))


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


class Returns:
    """Takes what comes back from `maniple.delay`: admitted already, only the door is tried again.

    Deadline and lane are looked at again; nothing is decided twice.
    """

    def __init__(
        self,
        lanes: Lanes,
        refused: RefusedLog,
        clock: Callable[[], datetime],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """Send what is due to `lanes`."""
        self._lanes = lanes
        self._refused = refused
        self._clock = clock
        self._spawn = spawn

    def take(self, delivery: Delivery) -> None:
        """Take one message from `maniple.retry`."""
        now = self._clock()
        try:
            envelopes = decode_envelopes(delivery.body)
        except InvalidMessage as error:
            self._spawn(self._keep(error, delivery))
            return
        if not envelopes:
            delivery.ack()
        source = Source(delivery, len(envelopes))
        for envelope in envelopes:
            if envelope.deadline <= now:
                waiting = "no agent or a full lane" if envelope.waits else "another attempt"
                self._lanes.end(expired(envelope, now, waiting=waiting), envelope, source)
            else:
                self._lanes.send(replace(envelope, dispatched_at=now), source)

    async def _keep(self, error: InvalidMessage, delivery: Delivery) -> None:
        about = RefusedInput(
            code=error.code,
            reason=error.message,
            size=len(delivery.body),
            sha256=hashlib.sha256(delivery.body).hexdigest(),
            truncated=False,
        )
        await self._refused.keep(delivery.body, about, origin={"routing_key": "maniple.retry"})
        delivery.ack()


def _raw_arrival(delivery: Delivery) -> RawArrival:
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
    )


def allowed_reply_to(reply_to: str | None) -> str | None:
    """Return where a result may be sent, or None."""
    if reply_to is None:
        return None
    try:
        check_reply_to(reply_to)
    except InvalidMessage:
        return None
    return reply_to


def _recordable(capability: str) -> str:
    """Return a name fit for the routing key of a record."""
    return capability if 0 < len(capability.encode()) <= MAX_NAME else UNKNOWN


def _new_trace() -> str:
    return new_traceparent(sampled=False)


def spawner(tasks: set[asyncio.Task[None]]) -> Callable[[Coroutine[Any, Any, None]], object]:
    """Return a function that runs coroutines owned by `tasks`."""

    def spawn(work: Coroutine[Any, Any, None]) -> object:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    return spawn
