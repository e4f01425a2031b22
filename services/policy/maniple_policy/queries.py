"""What the policy service tells without changing anything."""

import asyncio
import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from maniple.timings import Policies
from maniple_policies import Question, difference, explain
from maniple_policy.domain.records import Revision, Stored
from maniple_policy.domain.replicas import Replicas, ReplicaState
from maniple_policy.errors import StoreUnavailable, UnknownPolicy, UnknownVersion
from maniple_policy.live_processes import LiveProcesses
from maniple_policy.requests import Diff, Explain, Snapshot, Which
from maniple_policy.store import Store
from maniple_runtime import metric_names
from maniple_runtime.control.messages import Request
from maniple_runtime.events import PolicyApplied
from maniple_runtime.telemetry import Metrics, get_logger

EVALUATING = frozenset({"dispatcher"})
"""Services whose processes evaluate policies, whether they have reported yet or not."""
COUNT_PERIOD = 2.0  # seconds
PRESENT_FOR = 10.0  # seconds for which a count goes by the same look into Consul
ASKED_WITHIN = 2.0  # seconds by which an answer's look may be older
MOST_AHEAD = 1_000_000  # changes that Consul may have lost; who claims more is not believed

log = get_logger("maniple.policy")


class PolicyQueries:
    """The operations that look. Each takes a request and returns a JSON object."""

    def __init__(
        self,
        store: Store,
        fleet: LiveProcesses,
        monotonic: Callable[[], float],
        times: Policies | None = None,
    ) -> None:
        self.store = store
        self.fleet = fleet
        self.reports = Replicas(monotonic(), times)
        self._monotonic = monotonic

    def on_applied(self, event: PolicyApplied) -> None:
        """Take what a process says that it runs."""
        if event.revision > self.store.revision + MOST_AHEAD:
            log.warning("an impossible report is ignored", instance=event.instance)
            return
        self._learn()
        self.reports.record_report(event, self._monotonic())
        self.store.newest = self.reports.newest

    def found(self, key: str, *, deleted: bool = False) -> Stored:
        """Return a policy; raises `UnknownPolicy`, for a deleted one too if not told otherwise."""
        self.check_known()
        record = self.store.records.get(key)
        if record is None or (record.deleted and not deleted):
            raise UnknownPolicy(key)
        return record

    def revision(self, record: Stored, version: int) -> Revision:
        """Return one version of a policy; raises `UnknownVersion`."""
        found = record.find(version)
        if found is None:
            raise UnknownVersion(record.key, version)
        return found

    def check_known(self) -> None:
        """Raise `StoreUnavailable` as long as nothing is known of what is in force."""
        if not self.store.known:
            raise StoreUnavailable("Consul was not read yet and nothing is kept on disk")

    async def get_policy(self, request: Request) -> dict[str, Any]:
        """Return one policy with its history."""
        record = self.found(Which.model_validate(request.body).policy_key)
        return record.model_dump(mode="json")

    async def list(self, _request: Request) -> dict[str, Any]:
        """Return all policies in force, without their history, and what Consul holds besides."""
        self.check_known()
        records = sorted(self.store.records.values(), key=lambda r: r.key)
        live = [r.revision.model_dump(mode="json") for r in records if not r.deleted]
        return {"policies": live, "invalid": self.store.invalid, **self._set()}

    async def history(self, request: Request) -> dict[str, Any]:
        """Return every version that is remembered, the latest first, with what it changed."""
        record = self.found(Which.model_validate(request.body).policy_key, deleted=True)
        revisions = [
            {
                **revision.model_dump(mode="json"),
                "diff": changed(record.version_before(revision.policy.version), revision),
            }
            for revision in record.revisions
        ]
        return {"policy": record.key, "revisions": revisions}

    async def diff(self, request: Request) -> dict[str, Any]:
        """Return what differs between two versions."""
        body = Diff.model_validate(request.body)
        record = self.found(body.policy_key, deleted=True)
        after = self.revision(record, body.after or record.version)
        before = (
            record.version_before(after.policy.version)
            if body.before is None
            else self.revision(record, body.before)
        )
        return {
            "policy": record.key,
            "before": before.policy.version if before else None,
            "after": after.policy.version,
            "diff": changed(before, after),
        }

    async def snapshot(self, request: Request) -> dict[str, Any]:
        """Return the documents in force and their digest; no documents if the caller has them."""
        body = Snapshot.model_validate(request.body)
        self.check_known()
        policies = self.store.policies
        if body.digest == policies.digest:
            return self._set()
        return {**self._set(), "policies": policies.to_json()}

    async def explain(self, request: Request) -> dict[str, Any]:
        """Say of every document what becomes of it for a task."""
        body = Explain.model_validate(request.body)
        self.check_known()
        told = explain(self.store.policies.in_force, Question(**body.model_dump()))
        return {"documents": [dataclasses.asdict(one) for one in told]}

    async def status(self, _request: Request) -> dict[str, Any]:
        """Say which processes have which versions."""
        self.check_known()
        present, processes = await self._processes(ASKED_WITHIN)
        now, reports, policies = self._monotonic(), self.reports, self.store.policies
        unknown = sum(one["heard"] is None for one in processes)
        records = self.store.records
        return {
            **self._set(),
            "listening": reports.listening(now),
            "period": reports.period,
            "consul": present,
            "policies": [
                {
                    "policy": key,
                    "version": version,
                    "at": records[key].model_dump(mode="json")["at"],
                    "author": records[key].author,
                    "rollout": records[key].policy.model_dump(mode="json")["rollout"],
                    **reports.counts(key, version, policies.digest, now),
                    "unknown": unknown,
                }
                for key, version in policies.versions.items()
            ],
            "processes": processes,
            "invalid": self.store.invalid,
        }

    async def standing(self) -> Counter[str]:
        """Count the processes that evaluate policies by how they stand to what is in force."""
        # Each replica at another time, so that they do not ask Consul together.
        _, processes = await self._processes(PRESENT_FOR * random.uniform(0.8, 1.2))
        return Counter(process["state"] for process in processes)

    async def _processes(self, at_most: float) -> tuple[bool, Sequence[dict[str, Any]]]:
        """Return whether Consul said who is present, and what is known of each process.

        It said so `at_most` seconds ago.
        """
        present = await self.fleet.present(EVALUATING | self.reports.services, at_most)
        self._learn()
        now = self._monotonic()
        self.reports.prune(present.processes, present.at, now)
        self.store.newest = self.reports.newest
        processes = self.reports.processes(self.store.policies.digest, present.processes or {}, now)
        return present.processes is not None, processes

    def _set(self) -> dict[str, Any]:
        """Say which set is in force here, and whether Consul can be read: else it may be old."""
        policies = self.store.policies
        return {
            "digest": policies.digest,
            "revision": policies.revision,
            "current": self.store.current,
        }

    def _learn(self) -> None:
        policies = self.store.policies
        self.reports.learn_processes(policies.digest, policies.versions)


async def count(answers: PolicyQueries, metrics: Metrics) -> None:
    """Show how many processes have what is in force, until cancelled."""
    while True:
        pause = COUNT_PERIOD
        if answers.store.known:
            try:
                standing = await answers.standing()
                answers.store.look_ahead()
            except Exception:  # policies are more than their count
                log.exception("processes not counted")
                pause = PRESENT_FOR
            else:
                for state in ReplicaState:
                    metrics.gauge(metric_names.POLICY_PROCESSES, state.value).set(standing[state])
        await asyncio.sleep(pause)


def changed(before: Revision | None, after: Revision) -> str:
    """Return what an operator sees of a change; a tombstone is no document."""
    older = None if before is None or before.deleted else before.policy
    return difference(older, None if after.deleted else after.policy)
