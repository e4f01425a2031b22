"""`maniple_policies` and its copy on disk: documents, and which of them holds."""

import json
import timeit
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from maniple.errors import ErrorCode
from maniple.messages import RetryPlan
from maniple_policies import Match, Policy, PolicySet, parse_policy
from maniple_runtime.policy_cache import PolicyCache


def timeout(name: str, seconds: float = 1.0, **match: Any) -> Policy:
    spec = {"seconds": seconds}
    return parse_policy({"kind": "timeout", "name": name, "match": match, "spec": spec})


def retry(name: str, attempts: int = 3, version: int = 1, **spec: Any) -> Policy:
    spec = {"attempts": attempts, **spec}
    return parse_policy({"kind": "retry", "name": name, "version": version, "spec": spec})


def test_a_task_gets_one_policy_of_each_kind_and_their_versions() -> None:
    policies = PolicySet(
        [
            retry("all", 5, version=7, base=0.5, codes=["timeout"]),
            timeout("text", capability="text.*"),
        ]
    )
    found = policies.resolve("text.stats", "default", {})
    assert (found.timeout, found.attempts) == (1.0, 5)
    assert found.retry == RetryPlan(base=0.5, codes=(ErrorCode.TIMEOUT,))
    assert found.versions == {"retry/all": 7, "timeout/text": 0}
    other = policies.resolve("image.scale", "default", {})
    assert (other.timeout, other.versions) == (None, {"retry/all": 7})


def test_without_policies_nothing_is_said() -> None:
    found = PolicySet().resolve("text.stats", "default", {"a": "b"})
    assert (found.timeout, found.attempts, found.retry, found.versions) == (None, None, None, {})


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({}, {"capability": "t*"}),
        ({"capability": "text.*"}, {"capability": "text.stats"}),
        ({"capability": "t*"}, {"capability": "text.*"}),
        ({"capability": "text.stats"}, {"capability": "text.*", "tenant": "ac*"}),
        ({"capability": "text.stats"}, {"tenant": "a*", "labels": {"region": "*"}}),
        ({"capability": "text*"}, {"tenant": "acme"}),
        ({"tenant": "a*"}, {"capability": "t*"}),
        ({"labels": {"region": "e*"}}, {"tenant": "a*"}),
        ({"labels": {"region": "*"}}, {"labels": {"region": "e*"}}),
    ],
)
def test_the_more_specific_policy_wins_whatever_their_names(
    less: dict[str, Any], more: dict[str, Any]
) -> None:
    for names in (("a", "b"), ("b", "a")):
        policies = PolicySet([timeout(names[0], 1, **less), timeout(names[1], 2, **more)])
        assert policies.resolve("text.stats", "acme", {"region": "eu"}).timeout == 2


def test_what_is_equally_specific_is_decided_by_name() -> None:
    both = [timeout("b", 1, labels={"x": "1"}), timeout("a", 2, labels={"y": "1"})]
    policies = [PolicySet(order) for order in (both, both[::-1])]
    assert [p.resolve("c", "t", {"x": "1", "y": "1"}).timeout for p in policies] == [2, 2]


def test_a_label_that_a_task_lacks_matches_nothing() -> None:
    policies = PolicySet([timeout("eu", labels={"region": "*"})])
    assert policies.resolve("c", "t", {}).timeout is None
    assert policies.resolve("c", "t", {"region": ""}).timeout == 1.0


def test_brackets_in_a_glob_are_themselves() -> None:
    policies = PolicySet([timeout("odd", tenant="a[b]*")])
    assert policies.resolve("c", "a[b]c", {}).timeout == 1.0
    assert policies.resolve("c", "abc", {}).timeout is None


names = st.sampled_from(["a", "b", "ab", "abc", "b.c"])
globs = st.sampled_from(["*", "a", "a*", "?b", "ab*", "*c", "b.c"])
matches = st.builds(
    Match, capability=globs, tenant=globs, labels=st.dictionaries(names, globs, max_size=2)
)


@given(st.lists(matches, max_size=8), names, names, st.dictionaries(names, names, max_size=3))
def test_no_matching_policy_is_more_specific_than_the_one_that_wins(
    given_matches: list[Match], capability: str, tenant: str, labels: dict[str, str]
) -> None:
    policies = [timeout(f"p{n}", n + 1, **m.model_dump()) for n, m in enumerate(given_matches)]
    fit = [
        p
        for p in policies
        if PolicySet([p]).resolve(capability, tenant, labels).timeout is not None
    ]
    together = PolicySet(policies)
    won = together.resolve(capability, tenant, labels).versions
    assert together.resolve(capability, tenant, labels).versions == won  # from the cache
    assert list(won) == [
        p.key for p in sorted(fit, key=lambda p: ([-n for n in p.match.specificity], p.name))[:1]
    ]


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "retry", "name": "r", "spec": {"attempts": 0}},
        {"kind": "retry", "name": "r", "spec": {"attempts": 3, "codes": ["rate_limited"]}},
        {"kind": "retry", "name": "r", "spec": {"attempts": 3, "factor": 0.5}},
        {"kind": "timeout", "name": "t", "spec": {"seconds": 0}},
        {"kind": "timeout", "name": "t", "spec": {"seconds": float("inf")}},
        {"kind": "timeout", "name": "t", "spec": {"seconds": True}},
        {"kind": "timeout", "name": "t", "spec": {"seconds": {"max": True}}},
        {"kind": "timeout", "name": "t", "spec": {"seconds": 1}, "version": True},
        {"kind": "timeout", "name": "Not A Name", "spec": {"seconds": 1}},
        {"kind": "timeout", "name": "t", "spec": {"seconds": 1}, "extra": 1},
        {"kind": "timeout", "name": "t", "match": {"queue": "x"}, "spec": {"seconds": 1}},
        {"kind": "wish", "name": "t", "spec": {}},
        {"name": "t", "spec": {"seconds": 1}},
        [],
        None,
    ],
)
def test_a_wrong_document_is_refused(document: Any) -> None:
    with pytest.raises(ValidationError):
        parse_policy(document)


def test_a_text_that_says_a_number_is_one() -> None:
    policies = PolicySet(
        [
            parse_policy(
                {
                    "kind": "timeout",
                    "name": "t",
                    "spec": {"seconds": {"default": "2", "max": "1e3"}},
                }
            )
        ]
    )
    assert policies.resolve("c", "t", {}).timeout == 2.0


def test_two_policies_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same kind and name"):
        PolicySet([timeout("a"), timeout("a", 2)])
    assert len(PolicySet([timeout("a"), retry("a")]).policies) == 2


def test_the_digest_tells_sets_apart_and_not_their_order() -> None:
    one, two = timeout("a"), retry("b")
    assert PolicySet([one, two]).digest == PolicySet([two, one]).digest
    changed = two.model_copy(update={"version": two.version + 1})
    assert PolicySet([one, changed]).digest != PolicySet([one, two]).digest


def test_resolving_again_is_cheap() -> None:
    policies = PolicySet(
        [
            *(timeout(f"p{n}", capability=f"c{n}.*") for n in range(200)),
            timeout("l", labels={"a": "*"}),
        ]
    )
    labels = {"a": "1", "user": "u"}
    calls = 20_000
    taken = min(
        timeit.repeat(lambda: policies.resolve("c7.x", "t", labels), number=calls, repeat=5)
    )
    assert taken / calls < 10e-6  # measured 0.4 us; room for a busy machine


def test_labels_that_no_policy_asks_for_do_not_fill_the_cache() -> None:
    policies = PolicySet([timeout("l", labels={"region": "eu"})])
    for user in range(100):
        policies.resolve("c", "t", {"region": "eu", "user": str(user)})
    assert len(policies._cache) == 1


def test_the_cache_is_bounded() -> None:
    policies = PolicySet([timeout("a")])
    for tenant in range(10_000):
        policies.resolve("c", str(tenant), {})
    assert len(policies._cache) <= 4096


def test_a_set_survives_on_disk(tmp_path: Path) -> None:
    cache = PolicyCache(tmp_path / "dev" / "policies.json")
    assert cache.load() is None
    documents = [timeout("a", capability="x.*"), retry("b", codes=["timeout"])]
    policies = PolicySet(documents, revision=7)
    cache.store(policies)
    loaded = cache.load()
    assert loaded is not None
    assert (loaded.digest, loaded.policies) == (policies.digest, policies.policies)
    assert loaded.revision == 7
    files = sorted(path.name for path in cache.path.parent.iterdir())
    assert files == ["policies-revision.json", "policies.json"]


@pytest.mark.parametrize("beside", [None, 7, {"revision": 7}, {"digest": "x", "revision": 7}])
@pytest.mark.parametrize("revision", ["7", -1, 2**53, True, None, 1.5])
def test_what_is_no_revision_of_the_set_on_disk_is_none(
    tmp_path: Path, beside: Any, revision: Any
) -> None:
    cache = PolicyCache(tmp_path / "policies.json")
    policies = PolicySet([timeout("a")])
    cache.store(policies)
    path = tmp_path / "policies-revision.json"
    for value in (beside, {"digest": policies.digest, "revision": revision}):
        path.write_text(json.dumps(value))
        loaded = cache.load()
        assert loaded is not None
        assert loaded.revision is None


@pytest.mark.parametrize("content", [b"", b"{", b"[{}]", b'{"a": 1}', b"\xff\xfe"])
def test_a_broken_file_is_no_policy_and_no_crash(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policies.json"
    path.write_bytes(content)
    assert PolicyCache(path).load() is None


def test_a_folder_that_cannot_be_written_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = PolicyCache(tmp_path / "file" / "policies.json")
    cache.store(PolicySet([timeout("a")]))
    assert cache.load() is None


@pytest.mark.parametrize(
    "more",
    [
        {"match": {"tenant": "acme"}},
        {"match": {"labels": {"tier": "free"}}},
        {"match": {"region": "eu"}},
        {"rollout": {"percent": 10}},
    ],
    ids=["tenant", "labels", "region", "a share of the tasks"],
)
def test_a_breaker_is_of_lanes_and_of_nothing_that_a_lane_does_not_know(
    more: dict[str, Any],
) -> None:
    document = {"kind": "circuit_breaker", "name": "it", "spec": {"consecutive": 5}}
    parse_policy(document | {"match": {"capability": "text.*", "instance": "d*"}})
    with pytest.raises(ValidationError, match="is of lanes"):
        parse_policy(document | more)


@pytest.mark.parametrize("plain", [{"seconds": 30}, {"seconds": 0.5}])
def test_a_plain_document_is_told_as_it_always_was(plain: dict[str, Any]) -> None:
    told = PolicySet([parse_policy({"kind": "timeout", "name": "t", "spec": plain})]).to_json()
    assert told[0]["policy"]["spec"] == plain  # older processes read it, and have its digest


def test_a_ceiling_without_a_default_has_the_most_for_it() -> None:
    spec = {"seconds": {"max": 9}}
    policies = PolicySet([parse_policy({"kind": "timeout", "name": "t", "spec": spec})])
    resolved = policies.resolve("a", "t", {})
    assert resolved.timeout == 9
    assert resolved.most_timeout is not None
    assert (resolved.most_timeout.value, resolved.most_timeout.refuses) == (9, False)


@pytest.mark.parametrize(
    "seconds",
    [{}, {"default": 3}, {"max": 0}, {"default": 3, "max": 2}, {"max": 3, "over": "ask"},
     {"max": 3, "most": 4}],
)  # fmt: skip
def test_a_ceiling_that_says_nothing_sensible_is_refused(seconds: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse_policy({"kind": "timeout", "name": "t", "spec": {"seconds": seconds}})
