"""Logs, metrics and trace context of a process."""

import logging
import random
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, TypeVar, cast

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.metrics import MetricWrapperBase
from structlog.typing import FilteringBoundLogger

from maniple.service import names
from maniple.service.names import CounterName, GaugeName, HistogramName, MetricName
from maniple.service.settings import ServiceSettings, without_password

MAX_CHILDREN = 1000  # label sets a metric may have, because capabilities come from outside
OTHER = "other"
_CHATTY = ("faststream", "aiormq", "aio_pika", "pamqp", "urllib3", "uvicorn", "asyncio")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01

M = TypeVar("M", bound=MetricWrapperBase)
EventDict = MutableMapping[str, Any]


def get_logger(name: str = "maniple") -> FilteringBoundLogger:
    """Return a logger; what it writes follows `configure_logging`, also when that comes later."""
    return cast("FilteringBoundLogger", structlog.get_logger(name))


def _hide_passwords(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str) and "://" in value and "@" in value:
            event[key] = without_password(value)
    return event


def configure_logging(settings: ServiceSettings, stream: TextIO | None = None) -> None:
    """Send structlog and the standard library's logging, in one form, to `stream` (stderr)."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    about = {"service": settings.service, "instance": settings.instance}

    def say_who(_logger: Any, _method: str, event: EventDict) -> EventDict:
        return {**about, **event}

    common: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        last: list[structlog.types.Processor] = [
            say_who,
            structlog.processors.format_exc_info,
            _hide_passwords,
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        last = [_hide_passwords, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]

    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        chatty = logging.getLogger(name)
        chatty.setLevel(max(level, logging.WARNING))
        chatty.handlers.clear()  # FastStream brings a handler and a form of its own
        chatty.propagate = True
    structlog.configure(
        processors=[*common, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


class Metrics:
    """The declared metrics on one registry, with their children kept: a hit costs a dict look-up.

    A metric that already has `MAX_CHILDREN` label sets counts new ones under `other`.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._parents = {spec.name: _made(spec, self.registry) for spec in names.ALL}
        self._children: dict[tuple[str, tuple[str, ...]], MetricWrapperBase] = {}
        self._counts: dict[str, int] = {}

    def counter(self, spec: CounterName, *labels: str) -> Counter:
        """Child of a counter; label values in the declared order."""
        return cast("Counter", self._child(spec, labels))

    def gauge(self, spec: GaugeName, *labels: str) -> Gauge:
        """Child of a gauge; label values in the declared order."""
        return cast("Gauge", self._child(spec, labels))

    def histogram(self, spec: HistogramName, *labels: str) -> Histogram:
        """Child of a histogram; label values in the declared order."""
        return cast("Histogram", self._child(spec, labels))

    def forget(self, spec: MetricName) -> None:
        """Drop all children of a metric, before setting it anew from a whole picture."""
        if spec.labels:
            self._parents[spec.name].clear()
        self._counts.pop(spec.name, None)
        self._children = {k: v for k, v in self._children.items() if k[0] != spec.name}

    def _child(self, spec: MetricName, labels: tuple[str, ...]) -> MetricWrapperBase:
        found = self._children.get((spec.name, labels))
        return found if found is not None else self._new_child(spec, labels)

    def _new_child(self, spec: MetricName, labels: tuple[str, ...]) -> MetricWrapperBase:
        count = self._counts.get(spec.name, 0)
        if count >= MAX_CHILDREN:
            others = tuple(OTHER for _ in labels)
            if labels != others:
                return self._child(spec, others)
        parent = self._parents[spec.name]
        child = parent.labels(*labels) if spec.labels else parent
        self._children[spec.name, labels] = child
        self._counts[spec.name] = count + 1
        return child


def _made(spec: MetricName, registry: CollectorRegistry) -> MetricWrapperBase:
    if isinstance(spec, CounterName):
        return Counter(spec.name, spec.text, spec.labels, registry=registry)
    if isinstance(spec, GaugeName):
        return Gauge(spec.name, spec.text, spec.labels, registry=registry)
    return Histogram(spec.name, spec.text, spec.labels, buckets=spec.buckets, registry=registry)


def process_metrics() -> Metrics:
    """Build a process's metrics, with memory, processor time, open files and Python's version."""
    metrics = Metrics()
    ProcessCollector(registry=metrics.registry)
    PlatformCollector(registry=metrics.registry)
    return metrics


def parse_traceparent(text: str) -> tuple[str, str, bool] | None:
    """Read a W3C traceparent: (trace id, parent span id, sampled); None if it is malformed."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return trace_id, span_id, bool(int(flags, 16) & _SAMPLED)


def new_traceparent(sampled: bool) -> str:  # noqa: FBT001 - a flag of the format itself
    """Begin a trace: a traceparent with random ids."""
    trace_id = random.getrandbits(128) or 1
    span_id = random.getrandbits(64) or 1
    return f"00-{trace_id:032x}-{span_id:016x}-{int(sampled):02x}"
