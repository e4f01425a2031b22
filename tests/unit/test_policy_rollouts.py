"""A version that holds for a share only, what the others have, and what resolving costs."""

import itertools
import sys
import timeit
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from maniple_policies import InForce, Policy, PolicySet, Where, parse_policy

TASKS = 100_000


def timeout(name: str, seconds: float, **more: Any) -> Policy:
    document = {"kind": "timeout", "name": name, "spec": {"seconds": seconds}}
    return parse_policy({**document, **more})


def rolled(percent: float, by: str = "task", **more: Any) -> Policy:
    return timeout("t", 2, version=2, rollout={"percent": percent, "by": by}, **more)


BEFORE = timeout("t", 1, version=1)


def inside(policies: PolicySet, task: str) -> bool:
    return policies.resolve("c", "acme", {}, task).timeout == 2


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_a_rollout_by_task_holds_for_its_share_of_the_tasks(percent: float) -> None:
    policies = PolicySet([InForce(policy=rolled(percent), before=BEFORE)])
    share = sum(inside(policies, f"task-{n}") for n in range(TASKS)) / TASKS * 100
    assert share == pytest.approx(percent, abs=0.5)


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(0, 100), st.lists(st.text(max_size=8), max_size=20))
def test_raising_the_percentage_keeps_who_is_in(one: float, two: float, tasks: list[str]) -> None:
    less, more = (PolicySet([InForce(policy=rolled(p))]) for p in sorted((one, two)))
    assert all(inside(more, task) for task in tasks if inside(less, task))


@pytest.mark.parametrize("by", ["task", "instance"])
def test_nobody_is_in_at_0_percent_and_everybody_at_100(by: str) -> None:
    for percent, seconds in ((0, 1), (100, 2)):
        for n in range(200):
            one = InForce(policy=rolled(percent, by), before=BEFORE)
            policies = PolicySet([one], Where(f"dispatcher-{n}"))
            found = policies.resolve("c", "t", {}, str(n))
            assert (found.timeout, found.versions) == (seconds, {"timeout/t": seconds})


@pytest.mark.parametrize("by", ["task", "instance"])
def test_who_is_outside_has_the_next_document_if_there_was_no_version_before(by: str) -> None:
    given = [rolled(0, by, match={"capability": "c"}), timeout("all", 9, version=4)]
    found = PolicySet(given).resolve("c", "t", {}, "1")
    assert (found.timeout, found.versions) == (9, {"timeout/all": 4})
    assert PolicySet(given[:1]).resolve("c", "t", {}, "1").timeout is None


def test_the_version_before_keeps_its_own_selector() -> None:
    before = timeout("t", 1, version=1, match={"capability": "old.*"})
    given = InForce(policy=rolled(0, match={"capability": "new.*"}), before=before)
    policies = PolicySet([given])
    assert policies.resolve("old.one", "t", {}, "1").timeout == 1
    assert policies.resolve("new.one", "t", {}, "1").timeout is None


def test_a_rollout_by_instance_holds_for_its_share_of_the_processes() -> None:
    one = InForce(policy=rolled(30, "instance"), before=BEFORE)
    sets = [PolicySet([one], Where(f"dispatcher-{n}")) for n in range(2000)]
    count = sum(inside(policies, "x") for policies in sets)
    assert count / len(sets) * 100 == pytest.approx(30, abs=4)
    for policies in sets[:50]:  # and each process says the same of every task
        assert len({inside(policies, str(task)) for task in range(20)}) == 1


def test_two_rollouts_divide_independently_of_each_other() -> None:
    other = timeout("u", 5, rollout={"percent": 50}, match={"capability": "d"})
    policies = PolicySet([rolled(50, match={"capability": "c"}), other])
    both = sum(
        inside(policies, str(n)) and policies.resolve("d", "acme", {}, str(n)).timeout == 5
        for n in range(10_000)
    )
    assert both / 10_000 == pytest.approx(0.25, abs=0.02)


def test_a_region_is_the_label_of_the_task_or_the_place_of_the_process() -> None:
    policies = PolicySet([timeout("eu", 3, match={"region": "eu*"})], Where("d", "eu-1"))
    assert policies.resolve("c", "t", {}).timeout == 3
    assert policies.resolve("c", "t", {"region": ""}).timeout == 3
    assert policies.resolve("c", "t", {"region": "us"}).timeout is None
    assert PolicySet(policies.policies).resolve("c", "t", {"region": "eu"}).timeout == 3


def test_only_the_processes_that_a_document_selects_have_it() -> None:
    policies = [timeout("one", 3, match={"instance": "dispatcher-?"})]
    assert PolicySet(policies, Where("dispatcher-1")).resolve("c", "t", {}).timeout == 3
    assert PolicySet(policies, Where("dispatcher-10")).resolve("c", "t", {}).timeout is None


SPECS: dict[str, list[dict[str, Any]]] = {
    "rate_limit": [
        {"limit": 10},
        {"limit": 1, "period": 60, "per": ["tenant", "label:user"], "over": "shape"},
        {"limit": 5, "algorithm": "leaky_bucket", "over": "degrade", "variant": "small"},
    ],
    "bulkhead": [{"max_in_flight": 5}, {"max_in_flight": 1, "per": ["tenant"], "over": "wait"}],
    "circuit_breaker": [{"consecutive": 5}, {"ratio": 0.5, "window": 10}],
    "fallback": [
        {"value": {"a": [1, None, "é"]}},
        {"value": False},
        {"capability": "text.small", "on": ["overloaded"]},
        {"accept": True},
    ],
    "route": [{"variants": [{"weight": 99}, {"variant": "canary", "weight": 1}]}],
    "mirror": [{"variant": "next", "percent": 1.5}],
    "retry": [{"attempts": 3}, {"attempts": 5, "codes": ["timeout"], "budget": 0.2}],
    "timeout": [{"seconds": 0.5}],
    "ttl": [{"seconds": 60}, {"seconds": {"default": 60, "max": 3600, "over": "reject"}}],
}
DOCUMENTS = [
    {"kind": kind, "name": f"{kind}.{n}", "spec": spec}
    for kind, specs in SPECS.items()
    for n, spec in enumerate(specs)
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(d["name"]) for d in DOCUMENTS])
def test_every_document_survives_its_own_json(document: dict[str, Any]) -> None:
    match: dict[str, Any] = {"capability": "a.*", "labels": {"region": "*"}, "region": "eu"}
    if document["kind"] == "circuit_breaker":  # a lane knows no labels
        match = {"capability": "a.*", "instance": "d*"}
    rollout = {"percent": 5, "by": "instance"}
    for more in ({}, {"match": match, "version": 3}, {"rollout": rollout}):
        policy = parse_policy({**document, **more})
        assert parse_policy(policy.model_dump(mode="json")) == policy
        one = InForce(policy=policy, before=policy)
        adapter = TypeAdapter(InForce)
        assert adapter.validate_json(adapter.dump_json(one)) == one
        again = PolicySet.from_json(PolicySet([policy]).to_json())
        assert (again.policies, again.digest) == ((policy,), PolicySet([policy]).digest)


@pytest.mark.parametrize(
    "value",
    ["\ud800", {"a": float("nan")}, [float("inf")], "x" * 70_000],
    ids=["surrogate", "nan", "inf", "long"],
)
def test_a_fallback_that_no_json_can_carry_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="value"):
        parse_policy({"kind": "fallback", "name": "f", "spec": {"value": value}})


def cost(policies: PolicySet, capability: str, *, known: bool) -> float:
    """Microseconds for a task; of a tenant that was seen before, or not."""
    numbers = itertools.count()

    def resolve() -> None:
        number = next(numbers)
        policies.resolve(capability, "t" if known else str(number), {"user": "u7"}, str(number))

    return min(timeit.repeat(resolve, number=500, repeat=5)) / 500 * 1e6


def test_what_resolving_with_200_policies_costs_is_printed() -> None:
    documents = [
        timeout(f"p{n}", 1, match={"capability": f"c{n % 50}.*", "labels": {"user": f"u{n}*"}})
        for n in range(149)
    ]
    documents += [
        timeout(f"r{n}", 1, match={"capability": f"r{n}"}, rollout={"percent": 10})
        for n in range(50)
    ]
    policies = PolicySet([*documents, timeout("tenant", 2, match={"tenant": "acme"})])
    for capability in ("c7.x", "r7"):
        known, new = (cost(policies, capability, known=known) for known in (True, False))
        sys.stdout.write(f"{capability}: {known:.2f} us a known task, {new:.2f} us a new one\n")
    assert policies.resolve("c7.x", "t", {"user": "u7"}, "1").timeout == 1
