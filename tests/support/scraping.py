"""What processes show at /metrics."""

from collections.abc import Iterable

import requests
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from maniple_cli.dev_cluster.cluster import ServiceProcess
from maniple_runtime.metric_names import CounterName, HistogramName, MetricName
from maniple_runtime.telemetry import Metrics

ANSWER_SECONDS = 20.0  # a guard against hanging


def sample_name(spec: MetricName) -> str:
    """Return the name of the sample that tells how much there was of a metric."""
    if isinstance(spec, CounterName):
        return f"{spec.name}_total"
    return f"{spec.name}_count" if isinstance(spec, HistogramName) else spec.name


def counted(metrics: Metrics, counter: CounterName, **labels: str) -> float:
    """Return how far a counter of this process has come."""
    return metrics.registry.get_sample_value(sample_name(counter), labels) or 0.0


def openmetrics(process: ServiceProcess) -> list[Metric]:
    """Return the metrics of a process in the format that has exemplars."""
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    answer = requests.get(f"{process.http}/metrics", headers=accept, timeout=ANSWER_SECONDS)
    return list(read_openmetrics(answer.text))  # type: ignore[no-untyped-call]  # has no types


def scrape(processes: Iterable[ServiceProcess]) -> dict[str, float]:
    """Return samples by name, added up over their labels and over the processes."""
    sums: dict[str, float] = {}
    for process in processes:
        answer = requests.get(f"{process.http}/metrics", timeout=ANSWER_SECONDS)
        answer.raise_for_status()
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums
