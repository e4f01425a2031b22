"""The metrics of a process."""

from typing import cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.metrics import MetricWrapperBase

from maniple_runtime import metric_names
from maniple_runtime.metric_names import CounterName, GaugeName, HistogramName, MetricName

MAX_CHILDREN = 1000  # label sets a metric may have, because capabilities come from outside
OTHER = "other"


class Metrics:
    """The declared metrics on one registry, with their children kept: a hit costs a dict look-up.

    A metric that already has `MAX_CHILDREN` label sets counts new ones under `other`.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._parents = {spec.name: _made(spec, self.registry) for spec in metric_names.ALL}
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

    def forget_series(self, spec: MetricName) -> None:
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
