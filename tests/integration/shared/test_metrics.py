"""Every metric that is declared is fed by the process that it is about."""

from typing import Any

from maniple_cli.dev_cluster.cluster import Cluster
from maniple_runtime import metric_names
from maniple_runtime.metric_names import GaugeName, MetricName
from outsider import Outsider
from scraping import sample_name, scrape
from waiting import wait_until

FED: dict[str, tuple[MetricName, ...]] = {
    "dispatcher": (
        metric_names.TASKS_SUBMITTED,
        metric_names.SUBMISSIONS_READ,
        metric_names.TASKS_ACCEPTED,
        metric_names.TASKS_REJECTED,
        metric_names.TASKS_DELAYED,
        metric_names.BUNDLES_SENT,
        metric_names.BYTES_SENT,
        metric_names.BUNDLE_TASKS,
        metric_names.PUBLISHES_RETURNED,
    ),
    "agent": (
        metric_names.RESULTS,
        metric_names.RUN_SECONDS,
        metric_names.QUEUE_SECONDS,
        metric_names.IN_FLIGHT,
        metric_names.HELD,
        metric_names.TASKS_RETRIED,
        metric_names.HEARTBEATS_SENT,
    ),
    "registry": (
        metric_names.HEARTBEATS_SEEN,
        metric_names.AGENTS,
        metric_names.LEADS,
    ),
    "policy": (metric_names.POLICY_PROCESSES,),
}
EVERYWHERE = {metric_names.LOOP_LAG, metric_names.READY, metric_names.COMPONENT_OK}
SELDOM = {
    metric_names.LOG_LINES_DROPPED,
    metric_names.HANDED_BACK,
    metric_names.DEAD_LETTERS,
    metric_names.EVICTIONS,
    metric_names.AGENTS_MISTIMED,
    metric_names.ECHOES,
    metric_names.QUEUES_SUSPECTED,
    metric_names.REPLIES_DROPPED,
    metric_names.PUBLISHES_REFUSED,
    metric_names.RECONNECTS,
    metric_names.PUBLISHING_BLOCKED,
    metric_names.HELD_BYTES,
    metric_names.QUEUES_HELD_BACK,
    metric_names.CONTROL_DROPPED,
    metric_names.POLICY_VERSION,
    metric_names.POLICIES_INVALID,
    metric_names.POLICY_DECISIONS,
    metric_names.MIRRORS_DROPPED,
    metric_names.BREAKER_OPEN,
    metric_names.SPANS_DROPPED,
    metric_names.TRACES_LIMITED,
}
"""Only when something goes wrong, or once there is a policy."""


def test_every_declared_metric_is_expected_of_somebody() -> None:
    fed = {spec for specs in FED.values() for spec in specs} | EVERYWHERE
    assert not fed & SELDOM
    assert fed | SELDOM == set(metric_names.ALL)


class Watched:
    """Which metrics each service has fed since this was made; once seen is enough."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._before = {service: self._scrape(service) for service in FED}
        self._missing = {service: set(specs) for service, specs in FED.items()}

    def missing(self) -> set[MetricName]:
        """Look again: a counter must have risen, a gauge must not be 0."""
        for service, specs in self._missing.items():
            before, now = self._before[service], self._scrape(service)
            specs -= {spec for spec in specs if _is_fed(spec, before, now)}
        return set().union(*self._missing.values())

    def _scrape(self, service: str) -> dict[str, float]:
        return scrape(self._cluster.of_service(service))


def _is_fed(spec: MetricName, before: dict[str, float], now: dict[str, float]) -> bool:
    name = sample_name(spec)
    level = 0.0 if isinstance(spec, GaugeName) else before.get(name, 0.0)
    return now.get(name, 0.0) > level


async def test_each_service_feeds_its_metrics(cluster: Cluster, outsider: Outsider) -> None:
    watched = Watched(cluster)
    # Two lanes that share each agent's one worker process, so that some tasks wait for it.
    lanes = ("test.hang_process", "test.process")
    crowd = [{"capability": lane, "payload": n} for n in range(9) for lane in lanes]
    crowded = outsider.send("batch", crowd)
    await wait_until(lambda: not watched.missing() & {metric_names.HELD, metric_names.IN_FLIGHT})
    endings: dict[str, Any] = {
        "test.double": ("succeeded", {"payload": 1}),
        "test.raise": ("failed", {}),
        "test.flaky": ("succeeded", {"payload": 2}),
        "nobody.is.home": ("expired", {"ttl": 1}),
        "maniple.echo": ("rejected", {"colour": "red"}),
    }
    for capability, (status, body) in endings.items():
        assert outsider.ask(capability, body)["status"] == status
    outsider.wait(crowded, len(crowd))
    await wait_until(lambda: not watched.missing())


async def test_every_process_tells_how_it_is(cluster: Cluster) -> None:
    def tell() -> bool:
        shown = [scrape([process]) for process in cluster.processes]
        return all(one[spec.name] > 0 for one in shown for spec in EVERYWHERE)

    await wait_until(tell)
