"""Why a task gets what it gets: which documents apply, in which order, and why others do not.

Kinds come in the order in which they are evaluated, the documents of each from the most specific
down. Without a task's id or a process's name it is unknown on which side of a rollout they are:
both versions then apply `partly`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from maniple_policies.documents import InForce
from maniple_policies.matching import matcher
from maniple_policies.policy import Policy, Rollout
from maniple_policies.registry import KINDS
from maniple_policies.rules import Subject, Where, share_of


class RuleVerdict(StrEnum):
    """Whether a document applies."""

    APPLIES = "applies"
    PARTLY = "partly"
    """To some tasks or in some processes, as the reason says."""
    LOSES = "loses"
    OUTSIDE = "outside"
    UNMATCHED = "unmatched"


@dataclass(frozen=True, slots=True)
class Question:
    """A task, and the process that decides; None where that is not known."""

    capability: str
    tenant: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    instance: str | None = None
    region: str = ""


@dataclass(frozen=True, slots=True)
class Explained:
    """One document: its verdict, the reason, and its content."""

    policy: str
    version: int
    verdict: RuleVerdict
    reason: str
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A document; `side` is its side of a rollout, None if none applies."""

    policy: Policy
    side: RuleVerdict | None = None
    said: str = ""


def explain(in_force: Iterable[InForce], question: Question) -> list[Explained]:
    """Return a verdict on every document for a task."""
    given = sorted(in_force, key=lambda one: one.policy.key)
    candidates = [candidate for one in given for candidate in _candidates(one, question)]
    candidates.sort(key=lambda c: c.policy.match.specificity, reverse=True)
    return [
        explained
        for kind in KINDS
        for explained in _decide([c for c in candidates if c.policy.kind == kind], question)
    ]


def _candidates(one: InForce, question: Question) -> Iterator[_Candidate]:
    rollout = one.policy.rollout
    if rollout is None or rollout.whole:
        yield _Candidate(one.policy)
        return
    what = f"{rollout.percent:g} % of the {rollout.by}s"
    inside = _inside(one.policy.key, rollout, question)
    if inside is None:
        yield _Candidate(one.policy, RuleVerdict.PARTLY, f"for {what}")
        if one.before is not None:
            yield _Candidate(one.before, RuleVerdict.PARTLY, f"for all but {what}")
        return
    outside = f"outside the rollout to {what}"
    yield _Candidate(one.policy, None if inside else RuleVerdict.OUTSIDE, "" if inside else outside)
    if one.before is not None:
        newer = f"version {one.policy.version} has taken its place here"
        yield _Candidate(
            one.before, RuleVerdict.OUTSIDE if inside else None, newer if inside else ""
        )


def _inside(key: str, rollout: Rollout, question: Question) -> bool | None:
    if rollout.percent == 0:
        return False
    if rollout.by == "instance":
        if question.instance is None:
            return None
        return share_of(key, question.instance) < rollout.percent
    if question.task is None:
        return None
    return share_of(key, question.tenant, question.task) < rollout.percent


def _decide(candidates: Iterable[_Candidate], question: Question) -> Iterator[Explained]:
    winner: Policy | None = None
    half: set[str] = set()
    for candidate in candidates:
        verdict, reason = _judged(candidate, question)
        if verdict in {RuleVerdict.APPLIES, RuleVerdict.PARTLY} and winner is not None:
            verdict, reason = RuleVerdict.LOSES, _lost(candidate.policy, winner)
        elif verdict is RuleVerdict.APPLIES:
            winner = candidate.policy
        elif verdict is RuleVerdict.PARTLY and reason == candidate.said:
            if candidate.policy.key in half:
                winner = candidate.policy  # one of its two versions has every task
            half.add(candidate.policy.key)
        policy = candidate.policy
        yield Explained(
            policy.key, policy.version, verdict, reason, policy.spec.model_dump(mode="json")
        )


def _judged(candidate: _Candidate, question: Question) -> tuple[RuleVerdict, str]:
    failing = _failing(candidate.policy, question)
    if failing:
        return RuleVerdict.UNMATCHED, failing
    if candidate.side is RuleVerdict.OUTSIDE:
        return RuleVerdict.OUTSIDE, candidate.said
    conditions = [candidate.said] if candidate.said else []
    instance = candidate.policy.match.instance
    if question.instance is None and matcher(instance) is not None:
        conditions.append(f"in processes called {instance!r}")
    if conditions:
        return RuleVerdict.PARTLY, ", ".join(conditions)
    return RuleVerdict.APPLIES, "the most specific that matches"


def _failing(policy: Policy, question: Question) -> str:
    """Return the selector that does not match; empty if all do."""
    match = policy.match
    where = Where(question.instance or "", question.region)
    task = Subject.of_task(question.capability, question.tenant, question.labels, where)
    pairs = [
        ("capability", match.capability, task.capability),
        ("tenant", match.tenant, task.tenant),
        ("region", match.region, task.region),
    ]
    if question.instance is not None:
        pairs.append(("instance", match.instance, question.instance))
    for name, glob in match.labels.items():
        if name not in task.labels:
            return f"the task has no label {name!r}"
        pairs.append((f"label {name}", glob, task.labels[name]))
    for name, glob, value in pairs:
        fits = matcher(glob)
        if fits is not None and not fits(value):
            return f"{name} {glob!r} does not match {value!r}"
    return ""


def _lost(policy: Policy, winner: Policy) -> str:
    if policy.match.specificity == winner.match.specificity and policy.key != winner.key:
        return f"as specific as {winner.key}, whose name comes first"
    return f"{winner.key} (version {winner.version}) is more specific"
