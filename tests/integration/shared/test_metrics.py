"""Every metric that is declared is fed by the process that it is about."""

from typing import Any

from maniple.local.cluster import Cluster
from maniple.service import names
from maniple.service.names import GaugeName, MetricName
from outsider import Outsider
from scraping import sample_name, scrape
from waiting import wait_until

FED: dict[str, tuple[MetricName, ...]] = {
    "dispatcher": (
        names.TASKS_SUBMITTED,
        names.SUBMISSIONS_READ,
        names.TASKS_ACCEPTED,
        names.TASKS_REJECTED,
        names.TASKS_DELAYED,
        names.BUNDLES_SENT,
        names.BYTES_SENT,
        names.BUNDLE_TASKS,
        names.PUBLISHES_RETURNED,
    ),
    "agent": (
        names.RESULTS,
        names.RUN_SECONDS,
        names.QUEUE_SECONDS,
        names.IN_FLIGHT,
        names.HELD,
        names.TASKS_RETRIED,
        names.HEARTBEATS_SENT,
    ),
    "registry": (
        names.HEARTBEATS_SEEN,
        names.AGENTS,
        names.LEADS,
    ),
    "policy": (names.POLICY_PROCESSES,),
}
EVERYWHERE = {names.LOOP_LAG, names.READY, names.COMPONENT_OK}
SELDOM = {
    names.LOG_LINES_DROPPED,
    names.HANDED_BACK,
    names.DEAD_LETTERS,
    names.EVICTIONS,
    names.AGENTS_MISTIMED,
    names.ECHOES,
    names.QUEUES_SUSPECTED,
    names.REPLIES_DROPPED,
    names.PUBLISHES_REFUSED,
    names.RECONNECTS,
    names.PUBLISHING_BLOCKED,
    names.HELD_BYTES,
    names.QUEUES_HELD_BACK,
    names.CONTROL_DROPPED,
    names.POLICY_VERSION,
    names.POLICIES_INVALID,
    names.POLICY_DECISIONS,
    names.MIRRORS_DROPPED,
    names.BREAKER_OPEN,
    names.SPANS_DROPPED,
    names.TRACES_LIMITED,
}
"""Only when something goes wrong, or once there is a policy."""


def test_every_declared_metric_is_expected_of_somebody() -> None:
    fed = {spec for specs in FED.values() for spec in specs} | EVERYWHERE
    assert not fed & SELDOM
    assert fed | SELDOM == set(names.ALL)


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
    await wait_until(lambda: not watched.missing() & {names.HELD, names.IN_FLIGHT})
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
