"""An OTLP/HTTP endpoint that decodes the spans, as Jaeger would.

As a program it prints every span as a line of JSON.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class Seen:
    """A span as it arrived; times are nanoseconds."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: dict[str, Any]
    events: dict[str, dict[str, Any]]
    links: tuple[tuple[str, str], ...]
    failed: bool
    resource: dict[str, Any]


class SpanCollector:
    """Keeps every span that is posted to `url`/v1/traces, or passes it to `heard`."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, heard: Callable[[Seen], None] | None = None
    ) -> None:
        """Listen; on a free port if it is 0."""
        self.spans: list[Seen] = []
        hear = heard or self.spans.append

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                found = self.path == "/v1/traces"
                for span in _decoded(body) if found else ():
                    hear(span)
                self.send_response(200 if found else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.url = f"http://{host}:{self._server.server_port}"

    def of_trace(self, trace_id: str) -> list[Seen]:
        """Return the spans of a trace, by their starts; those that begin together by name."""
        found = (s for s in self.spans if s.trace_id == trace_id)
        return sorted(found, key=lambda s: (s.start, s.name))

    def of_task(self, task_id: str) -> list[Seen]:
        """Return the spans that Maniple wrote of a task, by their starts."""
        found = (s for s in self.spans if s.attributes.get("maniple.task.id") == task_id)
        return sorted(found, key=lambda s: s.start)

    @contextmanager
    def serving(self) -> Iterator["SpanCollector"]:
        """Serve in a thread."""
        thread = threading.Thread(target=self.serve, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stop()

    def serve(self) -> None:
        """Serve until stopped."""
        self._server.serve_forever()

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


def _decoded(body: bytes) -> Iterator[Seen]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        about = _plain(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield _seen(span, about)


def _seen(span: WireSpan, resource: dict[str, Any]) -> Seen:
    return Seen(
        name=span.name,
        kind=WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_plain(span.attributes),
        events={event.name: _plain(event.attributes) for event in span.events},
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        resource=resource,
    )


def _plain(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs if isinstance(pair, KeyValue)}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


def _print(seen: Seen) -> None:
    sys.stdout.write(f"{json.dumps(asdict(seen))}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    SpanCollector(
        "0.0.0.0",  # noqa: S104 - in a container of its own
        4318,
        _print,
    ).serve()
