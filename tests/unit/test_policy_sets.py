"""A set of policies after a change: made of what was ready before, and shown, told and kept."""

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

import maniple_policy.records_on_disk
from maniple.digests import digest
from maniple_policies import InForce, Policy, PolicySet, Where, parse_policy
from maniple_policy.domain.changes import Wanted
from maniple_policy.domain.records import Revision
from maniple_policy.store import Store
from maniple_runtime import metric_names
from maniple_runtime.consul.client import Consul
from maniple_runtime.control.requests import Asked
from maniple_runtime.events import PolicyChanged
from maniple_runtime.health import Health
from maniple_runtime.policy_cache import read_json, write_atomically
from maniple_runtime.policy_versions import show_versions
from maniple_runtime.telemetry import Metrics
from policy_records import KeptKeys

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def timeout(name: str, seconds: float, **more: Any) -> Policy:
    match = {"capability": f"{name}.*"}
    document = {"kind": "timeout", "name": name, "match": match, "spec": {"seconds": seconds}}
    return parse_policy({**document, "version": 1, **more})


def test_the_digest_of_a_set_is_that_of_its_documents() -> None:
    policies = PolicySet([timeout("a", 1.5), timeout("b", 2, match={"tenant": "größe*"})])
    assert policies.digest == digest(policies.to_json())
    assert PolicySet().digest == digest([])


def test_a_set_with_one_document_replaced_is_the_same_as_one_made_anew() -> None:
    where = Where("one", "north")
    others: list[Policy | InForce] = [
        timeout("a", 1),
        timeout("b", 2, rollout={"percent": 50, "by": "instance"}),
    ]
    before = PolicySet([*others, timeout("c", 3)], where)
    changed = InForce(policy=timeout("c", 4, version=2), before=timeout("c", 3))
    for replaced, documents in (
        (before.replacing("timeout/c", changed), [*others, changed]),
        (before.replacing("timeout/c", None), others),
        (before.replacing("timeout/d", InForce(policy=timeout("d", 5))),
         [*others, timeout("c", 3), timeout("d", 5)]),
    ):  # fmt: skip
        anew = PolicySet(documents, where)
        assert (replaced.digest, replaced.versions) == (anew.digest, anew.versions)
        for name in "abcd":
            assert replaced.resolve(f"{name}.x", "t", {}) == anew.resolve(f"{name}.x", "t", {})


def test_versions_that_changed_are_shown_and_those_that_went_are_not() -> None:
    health, registry = Health("dispatcher", "one"), CollectorRegistry()
    metrics = Metrics(registry)

    def shown() -> dict[str, float]:
        families = [f for f in registry.collect() if f.name == metric_names.POLICY_VERSION.name]
        return {s.labels["name"]: s.value for family in families for s in family.samples}

    show_versions(health, metrics, {}, {"timeout/a": 1, "retry/b": 2})
    show_versions(health, metrics, {"timeout/a": 1, "retry/b": 2}, {"timeout/a": 3, "retry/b": 2})
    assert health.versions == {"timeout/a": 3, "retry/b": 2}
    assert shown() == {"a": 3, "b": 2}
    show_versions(health, metrics, {"timeout/a": 3, "retry/b": 2}, {"retry/b": 2})
    assert health.versions == {"retry/b": 2}
    assert shown() == {"b": 2}


async def test_a_change_is_told_however_slow_the_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy-store.json"
    told = threading.Event()

    async def announce(_event: PolicyChanged) -> None:
        told.set()

    def write_slowly(to: Path, value: object) -> None:
        assert told.wait(10), "the disk is waited for"
        write_atomically(to, value)

    monkeypatch.setattr(maniple_policy.records_on_disk, "write_atomically", write_slowly)
    store = Store(
        cast("Consul", KeptKeys()),
        "maniple/dev",
        path,
        health=Health("policy", "one"),
        metrics=Metrics(),
        announce=announce,
        now=lambda: NOW,
    )
    change = Revision(policy=timeout("a", 1), author="somebody", at=NOW)
    await store.change(Asked(op="policy.apply"), ["timeout/a"], lambda: [Wanted(change)])
    assert [one["policy"]["name"] for one in read_json(path)] == ["a"]


def of(revision: int | None, **versions: int) -> PolicySet:
    """A set with these versions."""
    documents = [timeout(name, 1, version=version) for name, version in versions.items()]
    return PolicySet(documents, revision=revision)


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        (of(5, a=1), of(4, a=4)),  # whatever it holds: something was deleted, or came back
        (of(5), of(4, a=4)),
        (of(None, a=2, b=1), of(None, a=1)),
        (of(None, a=2), of(7, a=1, b=6)),
        (of(7, a=2), of(None, a=1, b=6)),
    ],
)
def test_an_older_set_does_not_take_the_place_of_a_newer_one(
    newer: PolicySet, older: PolicySet
) -> None:
    assert newer.may_replace(older)
    assert not older.may_replace(newer)


def test_of_two_sets_with_one_revision_all_take_the_same() -> None:
    one, other = of(5, a=2, b=3), of(5, a=3, b=2)
    assert one.may_replace(other) != other.may_replace(one)
    assert one.may_replace(one)


def test_a_set_known_by_another_revision_is_the_same() -> None:
    one = of(None, a=2)
    assert one.at_revision(3).revision == 3
    assert (one.revision, one.at_revision(3).digest) == (None, one.digest)
