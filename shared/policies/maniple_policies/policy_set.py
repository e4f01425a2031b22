"""All policies in force in a process, and what they say about a task."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from types import MappingProxyType
from typing import Any, Self, TypeVar, cast

from pydantic import TypeAdapter

from maniple.digests import digest_of
from maniple.messages import RetryPlan
from maniple_policies.bounds import Ceiling
from maniple_policies.documents import InForce
from maniple_policies.matching import REGION
from maniple_policies.policy import Policy
from maniple_policies.registry import KINDS
from maniple_policies.rules import RolloutGate, Rule, Subject, Where, ordered, rules_of

CACHE_LIMIT = 4096
_IN_FORCE: TypeAdapter[list[InForce]] = TypeAdapter(list[InForce])


_Kind = TypeVar("_Kind", bound=Policy)


@dataclass(frozen=True)
class Resolved:
    """What the policies say about a task: of each kind the one that applies.

    `timeout` and the fields after it are what a task gets that does not choose, and the maximum
    that it may choose. `policies` are all that apply, in the order of evaluation; `versions` names
    those that decide whatever happens to the task: a fallback or a mirror is named only where it
    acted.
    """

    timeout: float | None = None
    attempts: int | None = None
    ttl: float | None = None
    most_timeout: Ceiling | None = None
    most_attempts: Ceiling | None = None
    most_ttl: Ceiling | None = None
    retry: RetryPlan | None = None
    policies: Mapping[type[Policy], Policy] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_policies(cls, *policies: Policy) -> Self:
        """Return what the policies that apply to a task say, one per kind."""
        terms: dict[str, Any] = {}
        for policy in policies:
            terms.update(policy.terms)
        versions = {one.key: one.version for one in policies if not one.NAMED_WHERE_IT_ACTS}
        return cls(**terms, policies={type(one): one for one in policies}, versions=versions)

    def policy_of(self, kind: type[_Kind]) -> _Kind | None:
        """Return the policy of a kind that applies, if there is one."""
        return cast("_Kind | None", self.policies.get(kind))

    @cached_property
    def guarded(self) -> bool:
        """Whether a task may be refused, delayed or redirected."""
        return any(policy.DECIDES for policy in self.policies.values())

    @cached_property
    def keeps_good(self) -> bool:
        """Whether a fallback may return the task's result for a later one."""
        return any(policy.keeps_good for policy in self.policies.values())


NOTHING = Resolved()
NOWHERE = Where()


class PolicySet:
    """All policies in force: immutable, each kind's documents from the most specific down.

    `revision` is the sum of the versions of all policies that there have ever been, tombstones
    among them: every change raises one of these, so that of two sets the one with the higher
    revision is the later one, whoever sends it. None: its sender did not say.

    Raises `ValueError` for two documents of one kind and name. Documents that are `made_ready` are
    not made ready for matching again.
    """

    def __init__(
        self,
        policies: Iterable[Policy | InForce] = (),
        where: Where = NOWHERE,
        *,
        revision: int | None = None,
        made_ready: Mapping[str, tuple[Rule, ...]] = MappingProxyType({}),
    ) -> None:
        self.revision = revision
        given = [one if isinstance(one, InForce) else InForce(policy=one) for one in policies]
        self.in_force = tuple(sorted(given, key=lambda one: one.policy.key))
        self.policies = tuple(one.policy for one in self.in_force)
        keys = [policy.key for policy in self.policies]
        if len(set(keys)) != len(keys):
            raise ValueError("two policies of the same kind and name")
        self.where = where
        self._ready = {
            key: made_ready.get(key) or tuple(rules_of(one, where))
            for key, one in zip(keys, self.in_force, strict=True)
        }
        self._rules = ordered(chain.from_iterable(self._ready.values()))
        # What the policies can tell tasks apart by, and so what an answer is remembered by.
        named = {name for rule in self._rules for name, _ in rule.labels}
        regional = any(rule.region is not None for rule in self._rules)
        self._labels = tuple(sorted(named | {REGION} if regional else named))
        self._by_tenant = any(rule.tenant is not None for rule in self._rules)
        self._by_capability: dict[str, tuple[tuple[Rule, ...], ...]] = {}
        self._cache: dict[tuple[str, str, tuple[str | None, ...]], Resolved | _Fork] = {}

    @cached_property
    def digest(self) -> str:
        """Equal for equal sets, versions included."""
        # That of `to_json`, put together of what each document keeps.
        return digest_of(f"[{','.join(one.as_text for one in self.in_force)}]")

    @cached_property
    def versions(self) -> dict[str, int]:
        """Version of each policy by `kind/name`."""
        return {policy.key: policy.version for policy in self.policies}

    @cached_property
    def gives_last_good(self) -> bool:
        """Whether some fallback may return the last good result."""
        documents = [one for both in self.in_force for one in (both.policy, both.before)]
        return any(one is not None and one.keeps_good for one in documents)

    def resolve(
        self, capability: str, tenant: str, labels: Mapping[str, str], task: str = ""
    ) -> Resolved:
        """Return what the policies say about a task. Cached by what they can distinguish."""
        if not self.policies:
            return NOTHING
        seen = tuple([labels.get(name) for name in self._labels])
        key = (capability, tenant if self._by_tenant else "", seen)
        found = self._cache.get(key)
        if found is None:
            if len(self._cache) >= CACHE_LIMIT:
                self._cache.clear()
            subject = Subject.of_task(capability, tenant, labels, self.where)
            found = self._cache[key] = self._found(subject)
        return found.resolve(tenant, task) if isinstance(found, _Fork) else found

    def may_replace(self, other: "PolicySet") -> bool:
        """Tell whether this set may replace the other one: it is not older.

        Of two with the same revision, as there may be once Consul has lost something, all processes
        choose the same. Without revisions a set is older if it has an older version of something.
        """
        if self.revision is None or other.revision is None:
            has = self.versions
            return all(has.get(key, version) >= version for key, version in other.versions.items())
        return (self.revision, self.digest) >= (other.revision, other.digest)

    def at_revision(self, revision: int | None) -> Self:
        """Return the same set with another revision."""
        other = copy.copy(self)
        other.revision = revision
        return other

    def replacing(self, key: str, one: InForce | None, revision: int | None = None) -> "PolicySet":
        """Return the set with another document for a key, or without one."""
        others = [other for other in self.in_force if other.policy.key != key]
        ready = {other: rules for other, rules in self._ready.items() if other != key}
        documents = [*others, one] if one else others
        return PolicySet(documents, self.where, revision=revision, made_ready=ready)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the documents as JSON values, made once: not to be changed."""
        return [one.as_json for one in self.in_force]

    @classmethod
    def from_json(cls, value: Any, where: Where = NOWHERE, *, revision: int | None = None) -> Self:
        """Read what `to_json` wrote; raises `ValueError` if any document is wrong."""
        return cls(_IN_FORCE.validate_python(value), where, revision=revision)

    def _found(self, subject: Subject) -> "Resolved | _Fork":
        kinds = [tuple(_until_decided(rules, subject)) for rules in self._of(subject.capability)]
        gates = {rule.gate for rules in kinds for rule in rules if rule.gate is not None}
        if gates:
            return _Fork(tuple(gates), tuple(kinds))
        return Resolved.from_policies(*[rules[0].policy for rules in kinds if rules])

    def _of(self, capability: str) -> tuple[tuple[Rule, ...], ...]:
        """Return the rules that match a capability, by kind in the order of evaluation."""
        found = self._by_capability.get(capability)
        if found is None:
            if len(self._by_capability) >= CACHE_LIMIT:
                self._by_capability.clear()
            fit = [r for r in self._rules if r.capability is None or r.capability(capability)]
            found = tuple(tuple(r for r in fit if r.policy.kind == kind) for kind in KINDS)
            self._by_capability[capability] = found
        return found


class _Fork:
    """An answer that depends on which rollouts a task is in."""

    def __init__(self, gates: tuple[RolloutGate, ...], kinds: tuple[tuple[Rule, ...], ...]) -> None:
        self._gates = gates
        self._kinds = kinds
        self._answers: dict[tuple[bool, ...], Resolved] = {}

    def resolve(self, tenant: str, task: str) -> Resolved:
        """Return what the policies say about this task."""
        inside = tuple([gate.inside(tenant, task) for gate in self._gates])
        found = self._answers.get(inside)
        if found is None:
            among = dict(zip(self._gates, inside, strict=True))
            chosen = (
                next((r for r in rules if r.gate is None or among[r.gate] != r.outside), None)
                for rules in self._kinds
            )
            said = [rule.policy for rule in chosen if rule is not None]
            found = self._answers[inside] = Resolved.from_policies(*said)
        return found


def _until_decided(rules: Iterable[Rule], subject: Subject) -> Iterator[Rule]:
    """Yield the rules that may decide: those in a rollout, and the first other one."""
    for rule in rules:
        if rule.selects(subject):
            yield rule
            if rule.gate is None:
                return
