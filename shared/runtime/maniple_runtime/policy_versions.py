"""The versions of the policies in force, as a process shows them."""

from collections.abc import Mapping

from maniple_runtime import metric_names
from maniple_runtime.health import Health
from maniple_runtime.telemetry import Metrics


def show_versions(
    health: Health, metrics: Metrics, before: Mapping[str, int], after: Mapping[str, int]
) -> None:
    """Show in `/health` and as metrics what has changed, both by `kind/name`."""
    changed = after
    if before.keys() <= after.keys():
        changed = {key: version for key, version in after.items() if before.get(key) != version}
    else:
        metrics.forget_series(metric_names.POLICY_VERSION)
        for key in before:
            health.versions.pop(key, None)
    health.versions.update(changed)
    for key, version in changed.items():
        kind, _, name = key.partition("/")
        metrics.gauge(metric_names.POLICY_VERSION, kind, name).set(version)
