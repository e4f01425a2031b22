"""Which process runs which versions, by their reports. Times are seconds of a clock."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from maniple.timings import Policies
from maniple_runtime.events import PolicyApplied

DIGESTS_KEPT = 200


class ReplicaState(StrEnum):
    """How a process compares to what is in force."""

    CURRENT = "current"
    LAGGING = "lagging"
    STALE = "stale"
    """Its last report is old (`Policies.stale`)."""
    UNKNOWN = "unknown"
    """It is in Consul and has not reported yet."""


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """The last report of a process; `versions` as far as they are known."""

    service: str
    digest: str
    heard: float
    revision: int = 0
    versions: Mapping[str, int] = field(default_factory=dict)


class Replicas:
    """The reports of processes since this one started listening."""

    def __init__(self, now: float, times: Policies | None = None) -> None:
        self._times = times or Policies()
        self._since = now
        self._sets: dict[str, Mapping[str, int]] = {}
        self._heard: dict[str, ReplicaReport] = {}

    def learn_processes(self, digest: str, versions: Mapping[str, int]) -> None:
        """Remember the versions of a set that was in force here."""
        self._sets.pop(digest, None)
        self._sets[digest] = dict(versions)
        if len(self._sets) > DIGESTS_KEPT:
            del self._sets[next(iter(self._sets))]

    def record_report(self, event: PolicyApplied, now: float) -> None:
        """Apply a report."""
        before = self._heard.get(event.instance)
        versions = self._sets.get(event.digest)
        if versions is None:  # a set that was never in force here, or before we started
            versions = {**(before.versions if before else {}), **event.versions}
            versions = {key: version for key, version in versions.items() if version}
        self._heard[event.instance] = ReplicaReport(
            event.service, event.digest, now, event.revision, versions
        )

    def prune(self, present: Collection[str] | None, seen: float, now: float) -> None:
        """Drop processes that are gone; `present` were in Consul at `seen`, None if not known."""
        for instance, report in list(self._heard.items()):
            absent = present is not None and instance not in present
            # Who was heard since may have come since.
            gone = absent and seen - report.heard > self._times.gone
            if gone or now - report.heard > self._times.forgotten:
                del self._heard[instance]

    @property
    def services(self) -> set[str]:
        """The services whose processes report."""
        return {report.service for report in self._heard.values()}

    @property
    def newest(self) -> int:
        """The highest revision of a set that a process reports; 0 if none does."""
        return max((report.revision for report in self._heard.values()), default=0)

    @property
    def instances(self) -> set[str]:
        """The processes that have reported."""
        return set(self._heard)

    def processes(
        self, digest: str, present: Mapping[str, str], now: float
    ) -> list[dict[str, Any]]:
        """Describe every process, also those `present` (service by instance) without a report.

        `versions` is null where they cannot be known.
        """
        in_force = self._sets.get(digest, {})
        told = []
        for instance, report in self._heard.items():
            current = report.digest == digest
            known = current or report.digest in self._sets
            told.append(
                {
                    "instance": instance,
                    "service": report.service,
                    "state": self._state(report, now, current=current),
                    "heard": round(now - report.heard, 1),
                    "digest": report.digest,
                    "revision": report.revision,
                    "behind": {} if current else _behind(report.versions, in_force, known=known),
                }
            )
        for instance, service in present.items():
            if instance not in self._heard:
                nothing = dict.fromkeys(("heard", "digest", "revision", "behind"))
                told.append(
                    {
                        "instance": instance,
                        "service": service,
                        "state": ReplicaState.UNKNOWN,
                        **nothing,
                    }
                )
        return sorted(told, key=lambda one: (one["service"], one["instance"]))

    def counts(self, key: str, version: int, digest: str, now: float) -> dict[str, int]:
        """Count the processes by whether they have a version of a policy."""
        found = dict.fromkeys(("have", "lag", "stale"), 0)
        for report in self._heard.values():
            if now - report.heard > self._times.stale:
                found["stale"] += 1
            elif report.digest == digest or report.versions.get(key) == version:
                found["have"] += 1
            else:
                found["lag"] += 1
        return found

    def listening(self, now: float) -> float:
        """Seconds since this process started listening."""
        return round(now - self._since, 1)

    @property
    def period(self) -> float:
        """Seconds within which every process reports."""
        return self._times.check

    def _state(self, report: ReplicaReport, now: float, *, current: bool) -> ReplicaState:
        if now - report.heard > self._times.stale:
            return ReplicaState.STALE
        return ReplicaState.CURRENT if current else ReplicaState.LAGGING


def _behind(
    has: Mapping[str, int], in_force: Mapping[str, int], *, known: bool
) -> dict[str, int | None]:
    """Return, by policy, the version of a process where that is not the one in force.

    0 stands for none, None for not known.
    """
    different = {key for key in {*has, *in_force} if has.get(key) != in_force.get(key)}
    return {key: has.get(key, 0 if known else None) for key in sorted(different)}
