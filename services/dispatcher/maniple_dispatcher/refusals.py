"""Telling senders of what is not admitted, recording it, and keeping its bytes."""

from maniple.codec import encode
from maniple.errors import InvalidMessage
from maniple.service.done import All, Done
from maniple.service.names import TASKS_REJECTED
from maniple.service.outlets import ResultOutlet
from maniple.service.refusals import RefusedLog
from maniple.service.settlement import Settlement
from maniple.service.telemetry import Metrics
from maniple_dispatcher.domain.admission import Arrival
from maniple_dispatcher.domain.refusing import Refusal

PARTS = 2
"""Of a source, that a refusal settles."""


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
        refusal: Refusal,
        arrival: Arrival,
        body: bytes,
        source: Settlement,
    ) -> None:
        """Send `refusal`, keep `body`; settles two parts of `source`."""
        self._metrics.counter(TASKS_REJECTED, error.code.value).inc()
        tell(self._results, refusal, arrival.reply_to, arrival.correlation_id, source.settle)
        origin = {
            "routing_key": arrival.routing_key,
            "message_id": arrival.message_id or "",
            "reply_to": arrival.reply_to or "",
            "task_id": refusal.record.id,
            "claimed_id": refusal.answer.id,
        }
        self._log.keep(body, error, origin, source.settle)


def tell(
    results: ResultOutlet,
    refusal: Refusal,
    reply_to: str | None,
    correlation_id: str | None,
    done: Done,
) -> None:
    """Record a refusal and answer its sender; `done` when both are confirmed."""
    if reply_to is None:
        results.report(refusal.record, None, None, done)
        return
    both = All(2, done).part
    results.report(refusal.record, None, None, both)
    results.reply(encode(refusal.answer), reply_to, correlation_id, both)
