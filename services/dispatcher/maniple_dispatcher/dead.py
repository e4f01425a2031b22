"""What the broker dead-letters by itself gets its terminal result: nothing just vanishes."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from maniple.codec import decode_envelopes, peek_identity
from maniple.errors import InvalidMessage
from maniple.identifiers import new_id
from maniple.messages import MAX_NAME, Envelope, Result
from maniple.service.outlets import ResultOutlet
from maniple.topology import SUBMIT, UNROUTED_QUEUE
from maniple.transport import Delivery
from maniple_dispatcher.domain.routing import given_up, never_admitted
from maniple_dispatcher.intake import allowed_reply_to
from maniple_dispatcher.lanes import Source

BROKER_KEY = "broker."


class Undeliverable:
    """Takes `maniple.dead.broker`; the bytes themselves are kept in `maniple.dead.log`."""

    def __init__(self, results: ResultOutlet, clock: Callable[[], datetime]) -> None:
        """Send results through `results`."""
        self._results = results
        self._clock = clock

    def take(self, delivery: Delivery) -> None:
        """Publish the terminal result of each task in a message that no consumer settled."""
        queue = delivery.routing_key.removeprefix(BROKER_KEY)
        reason = _reason(delivery.headers)
        if queue in (SUBMIT.name, UNROUTED_QUEUE.name):
            self._end_submission(delivery, reason)
            return
        try:
            envelopes = decode_envelopes(delivery.body)
        except InvalidMessage:
            delivery.ack()  # no task of ours can be read from it; the log has its bytes
            return
        self._end_all(delivery, envelopes, f"the broker gave it up in {queue} ({reason})")

    def _end_all(self, delivery: Delivery, envelopes: list[Envelope], why: str) -> None:
        if not envelopes:
            delivery.ack()
            return
        source = Source(delivery, len(envelopes))
        for envelope in envelopes:
            result = given_up(envelope, self._clock(), why)
            self._results.report(result, envelope.reply_to, envelope.correlation_id, source.settle)

    def _end_submission(self, delivery: Delivery, reason: str) -> None:
        """Tell a submitter whose message no dispatcher could settle."""
        known = peek_identity(delivery.body)
        properties = delivery.properties
        result: Result = never_admitted(
            task_id=known.id or (properties.message_id or new_id())[:MAX_NAME],
            capability=known.capability,
            tenant=known.tenant,
            now=self._clock(),
            why=f"no dispatcher could take it ({reason})",
        )
        source = Source(delivery, 1)
        reply_to = allowed_reply_to(properties.reply_to or None)
        self._results.report(result, reply_to, properties.correlation_id or None, source.settle)


def _reason(headers: dict[str, Any]) -> str:
    """Return why the broker gave a message up: such as `delivery_limit` or `rejected`."""
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return str(deaths[0].get("reason") or "unknown")
    return "unknown"
