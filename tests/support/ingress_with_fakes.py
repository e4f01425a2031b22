"""A dispatcher's ingress with fakes around it: what is admitted, and how the rest is answered."""

import json
from collections.abc import Sequence
from time import monotonic
from types import SimpleNamespace
from typing import Any

from known_records import Known
from maniple.amqp import Outgoing
from maniple.amqp.wire.properties import Properties
from maniple.codec import decode_results
from maniple.messages import Envelope, Result
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_dispatcher.ingress.long_messages import LongMessages
from maniple_dispatcher.ingress.refusal_sender import RefusalSender
from maniple_dispatcher.ingress.submission import SubmissionConsumer
from maniple_dispatcher.tracing import DispatchTracing
from maniple_policies import Resolved
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.publish.refused_log import RefusedLog
from maniple_runtime.records import Record
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import NO_TRACER
from work_with_fakes import NOW, FakePublisher

MESSAGE = "0192f0c1-2b3c-7d4e-8f00-112233445566"


class Submission(SimpleNamespace):
    """A submission, and how it was settled."""

    def __init__(self, body: Any, **properties: Any) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        properties = {"message_id": MESSAGE, "reply_to": "theirs"} | properties
        super().__init__(
            body=raw,
            routing_key=properties.pop("routing_key", "text.stats"),
            headers=properties.pop("headers", {}),
            redelivered=properties.pop("redelivered", False),
            properties=Properties(correlation_id="c", **properties),
        )
        self.acked = self.rejected = self.weight = 0
        self.alive = True

    def lighten(self, weight: int) -> None:
        self.weight = weight

    def ack(self) -> None:
        self.acked += 1

    def reject(self) -> None:
        self.rejected += 1


class Ingress:
    """A dispatcher's ingress, with what came of it."""

    def __init__(self, publisher: FakePublisher | None = None, known: Record | None = None) -> None:
        self.publisher, metrics = publisher or FakePublisher(), Metrics()
        self.records = Known(known)
        self._results = ResultPublisher(self.publisher, metrics, replier=self.publisher)
        self._log = RefusedLog(self.publisher, metrics)
        self.long = LongMessages(monotonic)
        self.admitted: list[str] = []
        self.before: Redelivery | None = None
        policies: Any = SimpleNamespace(resolve=lambda *_: Resolved())
        self.submissions = SubmissionConsumer(
            self.onward,
            RefusalSender(self._results, self._log, metrics),
            policies,
            metrics,
            lambda: NOW,
            traces=DispatchTracing(NO_TRACER, lambda: NOW, ratio=0.0),
            look=self.records.ask,
            long=self.long,
        )

    def onward(
        self, envelope: Envelope, _: Resolved, source: Settlement, before: Redelivery
    ) -> None:
        self.admitted.append(envelope.id)
        self.before = before
        source.settle()

    async def take(self, body: Any, **properties: Any) -> None:
        delivery: Any = Submission(body, **properties)
        self.submissions.on_submission(delivery)
        await self.drain()
        assert (delivery.acked, delivery.rejected) == (1, 0)

    async def drain(self) -> None:
        await self._results.drain_results()
        await self._log.drain_log()

    def _in(self, exchange: str) -> Sequence[Result]:
        return [r for m in self.publisher.to(exchange) for r in decode_results(m.body)]

    @property
    def kept(self) -> Sequence[Outgoing]:
        return self.publisher.to("maniple.dead")

    @property
    def recorded(self) -> Sequence[Result]:
        return self._in("maniple.results")

    @property
    def answered(self) -> Sequence[Result]:
        assert all(m.correlation_id == "c" for m in self.publisher.to(""))
        return self._in("")
