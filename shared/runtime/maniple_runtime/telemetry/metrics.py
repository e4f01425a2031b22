"""The metrics of a process."""

from collections.abc import Sequence
from typing import Generic, TypeVar, cast

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

M = TypeVar("M", bound=MetricWrapperBase)


class Children(dict[tuple[str, ...], M], Generic[M]):
    """The children of one metric by their label values, in the declared order.

    They are made when they are first asked for; a hit costs a dict look-up, and no call. Once there
    are `MAX_CHILDREN`, new label values are counted under `other`.
    """

    def __init__(self, parent: M, labels: Sequence[str]) -> None:
        super().__init__()
        self._parent = parent
        self._labels = labels

    def __missing__(self, values: tuple[str, ...]) -> M:
        others = (OTHER,) * len(values)
        if len(self) >= MAX_CHILDREN and values != others:
            return self[others]
        child = self[values] = self._parent.labels(*values) if self._labels else self._parent
        return child

    def drop_series(self) -> None:
        """Drop all of them, here and where they are shown."""
        if self._labels:
            self._parent.clear()
        self.clear()


class Metrics:
    """The declared metrics on one registry, with their children kept."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._of = {
            spec.name: Children(_made(spec, self.registry), spec.labels)
            for spec in metric_names.ALL
        }

    def counters(self, spec: CounterName) -> Children[Counter]:
        """All children of a counter; for what is counted for each task."""
        return cast("Children[Counter]", self._of[spec.name])

    def histograms(self, spec: HistogramName) -> Children[Histogram]:
        """All children of a histogram; for what is measured for each task."""
        return cast("Children[Histogram]", self._of[spec.name])

    def counter(self, spec: CounterName, *labels: str) -> Counter:
        """Child of a counter; label values in the declared order."""
        return cast("Counter", self._of[spec.name][labels])

    def gauge(self, spec: GaugeName, *labels: str) -> Gauge:
        """Child of a gauge; label values in the declared order."""
        return cast("Gauge", self._of[spec.name][labels])

    def histogram(self, spec: HistogramName, *labels: str) -> Histogram:
        """Child of a histogram; label values in the declared order."""
        return cast("Histogram", self._of[spec.name][labels])

    def forget_series(self, spec: MetricName) -> None:
        """Drop all children of a metric, before setting it anew from a whole picture."""
        self._of[spec.name].drop_series()


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
