"""`explain` and `difference`: what people are told about documents."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from maniple_policies import (
    InForce,
    Match,
    Policy,
    PolicySet,
    Question,
    RuleVerdict,
    Where,
    as_yaml,
    difference,
    explain,
    parse_policy,
)


def timeout(name: str, seconds: float = 1.0, **more: Any) -> Policy:
    document = {"kind": "timeout", "name": name, "spec": {"seconds": seconds}}
    return parse_policy({**document, **more})


def told(given: list[InForce], question: Question) -> list[tuple[str, int, RuleVerdict]]:
    return [(e.policy, e.version, e.verdict) for e in explain(given, question)]


words = ["a", "b", "ab"]
globs = st.sampled_from(["*", "a", "b", "a*", "?"])
matches = st.builds(
    Match,
    capability=globs,
    tenant=globs,
    labels=st.dictionaries(st.sampled_from(["x", "region"]), globs, max_size=1),
    region=globs,
    instance=globs,
)
rollouts = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"percent": st.sampled_from([0, 30, 100]), "by": st.sampled_from(["task", "instance"])}
    ),
)


@st.composite
def sets(draw: st.DrawFn) -> list[InForce]:
    given = []
    for n in range(draw(st.integers(1, 4))):
        match, rollout = draw(matches).model_dump(), draw(rollouts)
        before = None
        if rollout is not None and draw(st.booleans()):
            before = timeout(f"p{n}", match=draw(matches).model_dump(), version=1)
        policy = timeout(f"p{n}", match=match, rollout=rollout, version=2)
        given.append(InForce(policy=policy, before=before))
    return given


questions = st.builds(
    Question,
    capability=st.sampled_from(words),
    tenant=st.sampled_from(words),
    labels=st.dictionaries(st.sampled_from(["x", "region"]), st.sampled_from(words)),
    task=st.sampled_from(["1", "2", "3"]),
    instance=st.sampled_from(words),
    region=st.sampled_from(["", *words]),
)


@settings(deadline=None)
@given(sets(), questions)
def test_what_is_said_to_apply_is_what_is_resolved(given: list[InForce], asked: Question) -> None:
    where = Where(asked.instance or "", asked.region)
    policies = PolicySet(given, where)
    resolved = policies.resolve(asked.capability, asked.tenant, asked.labels, asked.task or "")
    applying = {p: v for p, v, verdict in told(given, asked) if verdict is RuleVerdict.APPLIES}
    assert applying == resolved.versions
    assert RuleVerdict.PARTLY not in {e.verdict for e in explain(given, asked)}


@settings(deadline=None)
@given(sets(), questions)
def test_what_holds_for_some_task_is_said_to_apply_at_least_partly(
    given: list[InForce], asked: Question
) -> None:
    vague = Question(asked.capability, asked.tenant, asked.labels, region=asked.region)
    where = Where(asked.instance or "", asked.region)
    resolved = PolicySet(given, where).resolve(
        asked.capability, asked.tenant, asked.labels, asked.task or ""
    )
    possible = {
        (policy, version)
        for policy, version, verdict in told(given, vague)
        if verdict in {RuleVerdict.APPLIES, RuleVerdict.PARTLY}
    }
    assert set(resolved.versions.items()) <= possible


def test_each_document_says_why_it_does_not_apply() -> None:
    given = [
        InForce(policy=timeout("all", 9)),
        InForce(policy=timeout("text", 5, match={"capability": "text.*"})),
        InForce(policy=timeout("image", 5, match={"capability": "image.*"})),
        InForce(policy=timeout("eu", 5, match={"labels": {"region": "eu"}})),
        InForce(policy=timeout("new", 1, match={"tenant": "acme", "capability": "text.*"},
                               rollout={"percent": 0})),
    ]  # fmt: skip
    found = explain(given, Question("text.stats", "acme", task="1"))
    assert [(e.policy, e.verdict, e.reason) for e in found] == [
        ("timeout/new", "outside", "outside the rollout to 0 % of the tasks"),
        ("timeout/eu", "unmatched", "the task has no label 'region'"),
        ("timeout/image", "unmatched", "capability 'image.*' does not match 'text.stats'"),
        ("timeout/text", "applies", "the most specific that matches"),
        ("timeout/all", "loses", "timeout/text (version 0) is more specific"),
    ]
    assert found[2].spec == {"seconds": 5.0}


def test_kinds_come_in_the_order_of_their_evaluation() -> None:
    route = {"kind": "route", "name": "r", "spec": {"variants": [{"weight": 1}]}}
    limit = {"kind": "rate_limit", "name": "l", "spec": {"limit": 1}}
    given = [InForce(policy=p) for p in (timeout("t"), *map(parse_policy, (limit, route)))]
    assert [e.policy for e in explain(given, Question("a"))] == [
        "route/r",
        "rate_limit/l",
        "timeout/t",
    ]


def test_both_sides_of_a_rollout_are_told_when_the_task_is_not_known() -> None:
    policy = timeout("t", 2, rollout={"percent": 10}, version=2)
    given = [
        InForce(policy=policy, before=timeout("t", 1, version=1)),
        InForce(policy=timeout("u", 3, version=5)),
    ]
    found = explain(given, Question("a"))
    assert [(e.version, e.verdict, e.reason) for e in found] == [
        (2, "partly", "for 10 % of the tasks"),
        (1, "partly", "for all but 10 % of the tasks"),
        (5, "loses", "as specific as timeout/t, whose name comes first"),
    ]


def test_a_diff_shows_what_somebody_would_have_written() -> None:
    one = timeout("t", 1, match={"capability": "a.*"}, version=1)
    two = timeout("t", 2.5, match={"capability": "a.*"}, version=2)
    assert difference(one, two) == (
        "--- timeout/t version 1\n+++ timeout/t version 2\n@@ -3,4 +3,4 @@\n match:\n"
        "   capability: a.*\n spec:\n-  seconds: 1.0\n+  seconds: 2.5\n"
    )
    assert difference(one, one.model_copy(update={"version": 7})) == ""
    assert difference(None, one).startswith("--- nothing\n+++ timeout/t version 1\n")
    assert as_yaml(None) == ""
