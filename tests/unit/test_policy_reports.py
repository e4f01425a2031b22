"""Who runs which version, and what of a document refers to nothing that lives."""

from datetime import UTC, datetime
from typing import Any

import pytest

from maniple_policies import parse_policy
from maniple_policy.domain.reach import Known, doubts
from maniple_policy.domain.replicas import Replicas
from maniple_runtime.events import PolicyApplied

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def applied(instance: str, digest: str, **versions: int) -> PolicyApplied:
    named = {f"timeout/{name}": version for name, version in versions.items()}
    return PolicyApplied(
        at=NOW, service="dispatcher", instance=instance, digest=digest, versions=named
    )


@pytest.fixture
def reports() -> Replicas:
    """Two sets have been in force: first one, then two."""
    made = Replicas(0.0)
    made.learn_processes("one", {"timeout/a": 1, "timeout/gone": 4})
    made.learn_processes("two", {"timeout/a": 2, "timeout/b": 1})
    return made


def shown(reports: Replicas, now: float = 1.0, **present: str) -> dict[str, tuple[str, Any]]:
    told = reports.processes("two", present, now)
    return {one["instance"]: (one["state"], one["behind"]) for one in told}


def test_a_process_lags_until_it_reports_the_set_in_force(reports: Replicas) -> None:
    reports.record_report(applied("d1", "one"), 0)
    behind = {"timeout/a": 1, "timeout/b": 0, "timeout/gone": 4}
    assert shown(reports) == {"d1": ("lagging", behind)}
    assert reports.counts("timeout/a", 2, "two", 1)["lag"] == 1
    reports.record_report(applied("d1", "two", a=2, b=1, gone=0), 1)
    assert shown(reports) == {"d1": ("current", {})}
    assert reports.counts("timeout/a", 2, "two", 1) == {"have": 1, "lag": 0, "stale": 0}


def test_of_a_set_that_nobody_knows_the_reported_changes_tell(reports: Replicas) -> None:
    reports.record_report(applied("d1", "strange", a=2), 0)
    assert shown(reports) == {"d1": ("lagging", {"timeout/b": None})}
    assert reports.counts("timeout/a", 2, "two", 1)["have"] == 1
    assert reports.counts("timeout/b", 1, "two", 1)["lag"] == 1


def test_who_is_silent_is_stale_and_who_has_gone_is_dropped(reports: Replicas) -> None:
    reports.record_report(applied("d1", "two"), 0)
    reports.record_report(applied("d2", "two"), 0)
    reports.prune({"d1"}, 5, 5)
    assert set(shown(reports)) == {"d1", "d2"}  # it may not be in Consul yet
    reports.prune({"d1"}, 11, 11)
    assert set(shown(reports)) == {"d1"}
    assert shown(reports, 91) == {"d1": ("stale", {})}
    assert reports.counts("timeout/a", 2, "two", 91) == {"have": 0, "lag": 0, "stale": 1}
    reports.prune(None, 500, 500)
    assert set(shown(reports)) == {"d1"}  # Consul is away: nobody knows
    reports.prune(None, 601, 601)
    assert shown(reports) == {}


def test_an_old_look_into_consul_drops_nobody_who_may_have_come_since(reports: Replicas) -> None:
    reports.record_report(applied("d1", "two"), 8)
    reports.prune(set(), 10, 20)
    assert set(shown(reports)) == {"d1"}
    reports.prune(set(), 19, 20)
    assert shown(reports) == {}


def test_who_is_in_consul_and_was_never_heard_is_unknown(reports: Replicas) -> None:
    reports.record_report(applied("d1", "two"), 0)
    assert shown(reports, d1="dispatcher", d2="dispatcher") == {
        "d1": ("current", {}),
        "d2": ("unknown", None),
    }


AGENTS = [
    {"state": "active", "capabilities": ["a.x", "a.y"], "lanes": ["a.x", "a.y", "a.x@canary"]},
    {"state": "unreachable", "capabilities": ["a.x"], "lanes": ["a.x"]},
    {"state": "failed", "capabilities": ["b.x"], "lanes": ["b.x"]},
]
KNOWN = Known.of_agents(AGENTS)


def doubted(kind: str, spec: dict[str, Any], known: Known | None = KNOWN, **match: Any) -> str:
    policy = parse_policy({"kind": kind, "name": "p", "match": match, "spec": spec})
    return "; ".join(doubts(policy, known, {"d1"}))


def test_what_a_policy_touches_are_the_capabilities_of_agents_that_live() -> None:
    policy = parse_policy({"kind": "timeout", "name": "t", "spec": {"seconds": 1}})
    assert KNOWN.touched(policy) == {"a.x": 2, "a.y": 1}


def test_a_selector_that_matches_nothing_known_is_doubted() -> None:
    spec = {"seconds": 1}
    assert doubted("timeout", spec) == doubted("timeout", spec, capability="a.*") == ""
    assert doubted("timeout", spec, capability="b.*") == (
        "no agent has a capability that matches 'b.*'"
    )
    assert doubted("timeout", spec, None, capability="b.*") == ""  # no registry has answered
    assert doubted("timeout", spec, instance="d?") == ""
    assert doubted("timeout", spec, None, instance="e*") == "no process is called 'e*'"


def test_a_variant_that_nobody_serves_is_doubted() -> None:
    route = {"variants": [{"weight": 1}, {"variant": "canary", "weight": 1}]}
    assert doubted("route", route, capability="a.x") == ""
    assert doubted("route", route, capability="a.*") == "no agent reads the lane a.y@canary"
    mirror = {"variant": "next", "percent": 1}
    assert "a.x@next, a.y@next" in doubted("mirror", mirror)
    limit = {"limit": 1, "over": "degrade", "variant": "small"}
    assert "a.x@small" in doubted("rate_limit", limit, capability="a.x")
    assert doubted("fallback", {"capability": "b.x"}) == "no agent has the capability 'b.x'"
    assert doubted("fallback", {"value": 1}) == ""
