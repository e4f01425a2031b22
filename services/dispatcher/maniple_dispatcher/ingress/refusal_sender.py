"""Telling senders of what is not admitted, recording it, and keeping its bytes."""

from collections.abc import Iterable, Sequence
from functools import partial

from maniple.codec import encode, join
from maniple.errors import ErrorCode, InvalidMessage
from maniple_dispatcher.ingress.arrival import Arrival
from maniple_dispatcher.ingress.long_messages import Steps
from maniple_dispatcher.ingress.refusal import Refusal, Refused
from maniple_runtime.metric_names import TASKS_REJECTED
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import AllConfirmed, ConfirmCallback, Settlement
from maniple_runtime.publish.refused_log import RefusedLog
from maniple_runtime.telemetry import Metrics

PARTS = 2
"""Of a source, that a refusal settles."""


class RefusalSender:
    """Tells the sender of bad input, records it, and keeps its bytes."""

    def __init__(self, results: ResultPublisher, log: RefusedLog, metrics: Metrics) -> None:
        """Send through `results` and `log`."""
        self._results = results
        self._log = log
        self._metrics = metrics

    def refuse(  # noqa: PLR0913 - what is refused, why, and for whom
        self,
        error: InvalidMessage,
        refusal: Refusal,
        arrival: Arrival,
        body: bytes,
        source: Settlement,
        *,
        offered: bool = True,
    ) -> None:
        """Send `refusal`, keep `body`; settles two parts of `source`. See `tell` for `offered`."""
        self._tell(error, refusal, arrival, source, offered=offered)
        self._log.keep(body, error, _origin(refusal, arrival), source.settle)

    def refuse_members(
        self,
        refused: Sequence[Refused],
        refusals: Iterable[Refusal],
        arrival: Arrival,
        source: Settlement,
    ) -> Steps:
        """Send the `refusals` of bad members; `source` is settled when that is confirmed.

        The bytes of those that are refused for the same are kept as one array.
        """
        alike: dict[ErrorCode, tuple[Refusal, list[Refused]]] = {}
        for member, refusal in zip(refused, refusals, strict=True):
            yield
            source.expect(1)
            self._tell(member.error, refusal, arrival, source, offered=member.misshapen)
            alike.setdefault(member.error.code, (refusal, []))[1].append(member)
        for first, members in alike.values():
            bodies = [member.body or b"null" for member in members]
            origin = _origin(first, arrival)
            if members[0].position is not None:
                origin["positions"] = ",".join(str(member.position) for member in members)
            body = bodies[0] if len(bodies) == 1 else join(bodies)
            source.expect(1)
            self._log.keep(body, members[0].error, origin, source.settle)

    def refuse_array(  # noqa: PLR0913 - what is refused, why, and for whom
        self,
        error: InvalidMessage,
        refusal: Refusal,
        arrival: Arrival,
        body: bytes,
        source: Settlement,
        *,
        known: bool = False,
    ) -> None:
        """Refuse an array with its good members; settles two parts of `source`.

        Its sender is told when that is on record, and not before: whoever has it again looks there.
        It may be `known` to be.
        """
        self._metrics.counter(TASKS_REJECTED, error.code.value).inc()
        answer = partial(_answer, self._results, refusal, arrival, source.settle, offered=True)
        if known:
            answer()
        else:
            self._results.record_first.refuse_first(
                refusal.record, answer, source.settle, alive=lambda: source.alive
            )
        self._log.keep(body, error, _origin(refusal, arrival), source.settle)

    def _tell(
        self,
        error: InvalidMessage,
        refusal: Refusal,
        arrival: Arrival,
        source: Settlement,
        *,
        offered: bool,
    ) -> None:
        self._metrics.counter(TASKS_REJECTED, error.code.value).inc()
        tell(self._results, refusal, arrival, source.settle, offered=offered)


def _answer(
    results: ResultPublisher,
    refusal: Refusal,
    arrival: Arrival,
    done: ConfirmCallback,
    *,
    offered: bool,
) -> None:
    if arrival.reply_to is None:
        done(None)
        return
    encoded = encode(refusal.answer)
    results.reply(encoded, arrival.reply_to, arrival.correlation_id, done, offered=offered)


def _origin(refusal: Refusal, arrival: Arrival) -> dict[str, str]:
    return {
        "routing_key": arrival.routing_key,
        "message_id": arrival.message_id or "",
        "reply_to": arrival.reply_to or "",
        "task_id": refusal.record.id,
        "claimed_id": refusal.answer.id,
    }


def tell(
    results: ResultPublisher,
    refusal: Refusal,
    arrival: Arrival,
    done: ConfirmCallback,
    *,
    offered: bool,
) -> None:
    """Record a refusal and answer its sender; `done` when both are confirmed.

    Of many that are `offered` the answers are not waited for, and some dropped: who floods us with
    bad input may not hold up others with a slow queue. Each task that may be good has its answer.
    """
    both = AllConfirmed(2, done).part
    results.refuse(refusal.record, both)
    _answer(results, refusal, arrival, both, offered=offered)
