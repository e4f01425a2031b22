"""What the broker dead-letters by itself gets its terminal result: nothing just vanishes."""

import contextlib
import dataclasses
from collections.abc import Callable
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from maniple.codec import decode_envelopes, decode_submission, peek_identity
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import new_id
from maniple.messages import Envelope, Result, Status, Task
from maniple.service.outlets import ResultOutlet
from maniple.service.settlement import Settlement
from maniple.topology import SUBMIT, UNROUTED_QUEUE
from maniple.transport import Delivery
from maniple_dispatcher.domain.admission import (
    Arrival,
    bare_arrival,
    identity,
    recordable,
    rejection,
)
from maniple_dispatcher.domain.routing import given_up
from maniple_dispatcher.submissions import raw_arrival

BROKER_KEY = "broker."
EXPIRED = "expired"
Member = Task | InvalidMessage


class Undeliverable:
    """Takes `maniple.dead.broker`; the bytes themselves are kept in `maniple.dead.log`."""

    def __init__(self, results: ResultOutlet, clock: Callable[[], datetime]) -> None:
        """Send results through `results`."""
        self._results = results
        self._clock = clock

    def take(self, delivery: Delivery) -> None:
        """Publish the terminal result of each task in a message that no consumer settled."""
        queue = delivery.routing_key.removeprefix(BROKER_KEY)
        if queue in (SUBMIT.name, UNROUTED_QUEUE.name):
            self._end_submission(delivery)
            return
        try:
            envelopes = decode_envelopes(delivery.body)
        except InvalidMessage:
            delivery.ack()  # no task of ours can be read from it; the log has its bytes
            return
        reason = _death(delivery, "reason")
        self._end_envelopes(delivery, envelopes, f"the broker gave it up in {queue} ({reason})")

    def _end_envelopes(self, delivery: Delivery, envelopes: list[Envelope], why: str) -> None:
        if not envelopes:
            delivery.ack()
            return
        source = Settlement(delivery, len(envelopes))
        for envelope in envelopes:
            result = given_up(envelope, self._clock(), why)
            self._results.report(result, envelope.reply_to, envelope.correlation_id, source.settle)

    def _end_submission(self, delivery: Delivery) -> None:
        """End each member of a submission that no dispatcher settled."""
        raw = dataclasses.replace(
            raw_arrival(delivery), routing_key=_death(delivery, "routing-keys")
        )
        arrival = bare_arrival(raw, self._clock())
        members: list[Member] = [InvalidMessage(ErrorCode.UNDECODABLE, "", body=delivery.body)]
        with contextlib.suppress(InvalidMessage):
            members = decode_submission(delivery.body)
        is_array = delivery.body.lstrip()[:1] == b"["
        source = Settlement(delivery, len(members))
        for position, member in enumerate(members):
            result = _never_admitted(
                member, arrival, position if is_array else None, _death(delivery, "reason")
            )
            self._results.report(result, arrival.reply_to, arrival.correlation_id, source.settle)


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
