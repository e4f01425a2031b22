"""What the broker dead-letters by itself gets its terminal result: nothing just vanishes."""

import dataclasses
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from maniple.codec import decode_envelopes, decode_submission, peek_identity
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import new_id
from maniple.messages import Envelope, Result, Status, Task
from maniple.service.done import Done
from maniple.service.names import DEAD_LETTERS
from maniple.service.outlets import ResultOutlet
from maniple.service.settlement import Settlement
from maniple.service.telemetry import OTHER, Metrics
from maniple.topology import SUBMIT, UNROUTED_QUEUE
from maniple.transport import Delivery
from maniple_dispatcher.domain.admission import (
    UNKNOWN,
    Arrival,
    bare_arrival,
    identity,
    message_identity,
    recordable,
    rejection,
)
from maniple_dispatcher.domain.routing import given_up
from maniple_dispatcher.submissions import raw_arrival
from maniple_dispatcher.traces import Traces

BROKER_KEY = "broker."
EXPIRED = "expired"
REASONS = (EXPIRED, "rejected", "maxlen", "delivery_limit")
Member = Task | InvalidMessage

_log = logging.getLogger(__name__)


class Undeliverable:
    """Takes `maniple.dead.broker`; the bytes themselves are kept in `maniple.dead.log`."""

    def __init__(
        self,
        results: ResultOutlet,
        metrics: Metrics,
        clock: Callable[[], datetime],
        *,
        traces: Traces,
    ) -> None:
        """Send results through `results`."""
        self._traces = traces
        self._results = results
        self._clock = clock
        # An alert sees a counter rise only from a value that was there before.
        self._seen = {reason: metrics.counter(DEAD_LETTERS, reason) for reason in REASONS}
        self._other = metrics.counter(DEAD_LETTERS, OTHER)

    def take(self, delivery: Delivery) -> None:
        """Publish the terminal result of each task in a message that no consumer settled."""
        self._seen.get(_death(delivery, "reason"), self._other).inc()
        arrival = bare_arrival(raw_arrival(delivery), self._clock())
        try:
            ends = self._ends(delivery, arrival)
        except Exception:  # noqa: BLE001 - whatever it was, nobody after us would tell the sender
            _log.exception("a message that the broker gave up cannot be looked into")
            ends = [_End(_unreadable(arrival), arrival.reply_to, arrival.correlation_id)]
        if not ends:
            delivery.ack()
            return
        source = Settlement(delivery, len(ends))
        for end in ends:
            result, done = self._traced(end, source.settle)
            self._results.report(result, end.reply_to, end.correlation_id, done)

    def _traced(self, end: "_End", done: Done) -> tuple[Result, Done]:
        if end.envelope is None:
            return end.result, done
        return self._traces.given_up(end.result, end.envelope, done)

    def _ends(self, delivery: Delivery, arrival: Arrival) -> list["_End"]:
        queue = delivery.routing_key.removeprefix(BROKER_KEY)
        reason = _death(delivery, "reason")
        if queue in (SUBMIT.name, UNROUTED_QUEUE.name):
            arrival = dataclasses.replace(arrival, routing_key=_death(delivery, "routing-keys"))
            return [
                _End(result, arrival.reply_to, arrival.correlation_id)
                for result in _of_submission(delivery.body, arrival, reason)
            ]
        try:
            envelopes = decode_envelopes(delivery.body)
        except InvalidMessage:
            return []  # no task of ours can be read from it; the log has its bytes
        why = f"the broker gave it up in {queue} ({reason})"
        now = self._clock()
        return [
            _End(given_up(one, now, why), one.reply_to, one.correlation_id, one)
            for one in envelopes
        ]


@dataclasses.dataclass(frozen=True, slots=True)
class _End:
    """A result, where it is awaited, and the task that it ends, if that was admitted."""

    result: Result
    reply_to: str | None
    correlation_id: str | None
    envelope: Envelope | None = None


def _unreadable(arrival: Arrival) -> Result:
    return rejection(
        InvalidMessage(ErrorCode.UNDECODABLE, "the broker gave it up, and it cannot be read"),
        task_id=message_identity(arrival.message_id, new_id),
        capability=UNKNOWN,
        arrival=arrival,
        tenant="default",
    )


def _of_submission(body: bytes, arrival: Arrival, reason: str) -> list[Result]:
    """Return the end of each member of a submission that no dispatcher settled."""
    try:
        members = decode_submission(body)
    except InvalidMessage:
        whole = InvalidMessage(ErrorCode.UNDECODABLE, "", body=body)
        return [_never_admitted(whole, arrival, None, reason)]
    is_array = body.lstrip()[:1] == b"["
    return [
        _never_admitted(member, arrival, position if is_array else None, reason)
        for position, member in enumerate(members)
    ]


def _never_admitted(member: Member, arrival: Arrival, position: int | None, reason: str) -> Result:
    if isinstance(member, InvalidMessage):
        known = peek_identity(member.body or b"")
        own, tenant, capability = known.id, known.tenant, known.capability
    else:
        own, tenant, capability = member.id, member.tenant, member.capability
    expired = reason == EXPIRED
    code = ErrorCode.DEADLINE_EXCEEDED if expired else ErrorCode.UNDECODABLE
    result = rejection(
        InvalidMessage(code, f"no dispatcher took it: the broker gave it up ({reason})"),
        task_id=identity(own, arrival, position, new_id),
        capability=recordable(capability or arrival.routing_key),
        arrival=arrival,
        tenant=tenant,
    )
    return replace(result, status=Status.EXPIRED) if expired else result


def _death(delivery: Delivery, name: str) -> str:
    """Return what the broker says of the first death: its `reason`, or its first routing key."""
    deaths: Any = delivery.headers.get("x-death")
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], dict):
        return ""
    value = deaths[0].get(name)
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""
