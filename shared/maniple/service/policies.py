"""Policies: the documents, which of them holds for a task, and what that says.

Pure: no I/O, no clock. Of the kinds, `retry` and `timeout` are here; a new kind is a spec, a
document class in `Document`, and a field of `Resolved`.

**Which document wins.** Among the documents of a kind that match a task, the most specific: the
one with more selectors; of equals, the one with more selectors without wildcards; then the one
with more literal characters; then capability before tenant before labels. What is still equal is
decided by name, the first in the alphabet.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from maniple.control import digest
from maniple.errors import ErrorCode
from maniple.messages import MAX_TTL, RetryPlan

ANY = "*"
CACHE_LIMIT = 4096

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Retryable = Literal[
    ErrorCode.TIMEOUT,
    ErrorCode.HANDLER_ERROR,
    ErrorCode.HANDLER_CRASHED,
    ErrorCode.INVALID_OUTPUT,
]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Match(_Document):
    """Which tasks a policy is for: globs (`*`, `?`), all of which must match.

    A label that a task does not have matches nothing, not even `*`.
    """

    capability: Glob = ANY
    tenant: Glob = ANY
    labels: Mapping[str, Glob] = Field(default_factory=dict, max_length=32)

    @cached_property
    def specificity(self) -> tuple[int, ...]:
        """Sorts above that of every less specific match."""
        globs = [self.capability, self.tenant, *self.labels.values()]
        used = [glob for glob in globs if glob != ANY]
        literal = [len(glob) - glob.count("*") - glob.count("?") for glob in used]
        return (
            len(used) + sum(glob == ANY for glob in self.labels.values()),
            sum(not _is_glob(glob) for glob in used),
            sum(literal),
            int(self.capability != ANY),
            int(self.tenant != ANY),
        )


class RetrySpec(_Document):
    """How often a task is tried in all, and when again: full jitter over base * factor ** n.

    `base` and `cap` are seconds; empty `codes` means every error that may be retried.
    """

    attempts: int = Field(ge=1, le=1000)
    base: float = Field(default=1.0, ge=0, le=3600)
    factor: float = Field(default=2.0, ge=1, le=100)
    cap: float = Field(default=300.0, gt=0, le=3600)
    codes: tuple[Retryable, ...] = ()


class TimeoutSpec(_Document):
    """How long one attempt may run, in seconds."""

    seconds: float = Field(gt=0, le=MAX_TTL)


class _Policy(_Document):
    name: Name
    match: Match = Match()
    version: int = Field(default=0, ge=0)

    @property
    def key(self) -> str:
        """`kind/name`, by which results and processes tell what decided."""
        return f"{self.kind}/{self.name}"  # type: ignore[attr-defined]  # each subclass has one


class RetryPolicy(_Policy):
    """Attempts and their spacing."""

    kind: Literal["retry"] = "retry"
    spec: RetrySpec


class TimeoutPolicy(_Policy):
    """The time that an attempt may take."""

    kind: Literal["timeout"] = "timeout"
    spec: TimeoutSpec


Document = Annotated[RetryPolicy | TimeoutPolicy, Field(discriminator="kind")]
Policy = RetryPolicy | TimeoutPolicy
_DOCUMENT: TypeAdapter[Policy] = TypeAdapter(Document)
_DOCUMENTS: TypeAdapter[list[Policy]] = TypeAdapter(list[Document])
KINDS = ("retry", "timeout")


def parse_policy(value: Any) -> Policy:
    """Read a document from a JSON value; raises `pydantic.ValidationError`."""
    return _DOCUMENT.validate_python(value)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the policies say about a task; `versions` names those that say something."""

    timeout: float | None = None
    attempts: int | None = None
    retry: RetryPlan | None = None
    versions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Rule:
    """A document made ready for matching; None matches everything."""

    policy: Policy
    capability: Callable[[str], object] | None
    tenant: Callable[[str], object] | None
    labels: tuple[tuple[str, Callable[[str], object]], ...]

    def matches(self, capability: str, tenant: str, labels: Mapping[str, str]) -> bool:
        if self.capability is not None and not self.capability(capability):
            return False
        if self.tenant is not None and not self.tenant(tenant):
            return False
        return all(name in labels and match(labels[name]) for name, match in self.labels)


class PolicySet:
    """All policies in force: immutable, each kind's documents from the most specific down.

    Raises `ValueError` for two documents of one kind and name.
    """

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        self.policies = tuple(sorted(policies, key=lambda p: p.key))
        keys = [policy.key for policy in self.policies]
        if len(set(keys)) != len(keys):
            raise ValueError("two policies of the same kind and name")
        self._rules = {kind: _ordered(self.policies, kind) for kind in KINDS}
        self._labels = tuple(sorted({name for p in self.policies for name in p.match.labels}))
        self._cache: dict[tuple[str, str, tuple[str | None, ...]], Resolved] = {}

    @cached_property
    def digest(self) -> str:
        """Equal for equal sets, versions included."""
        return digest([policy.model_dump(mode="json") for policy in self.policies])

    @cached_property
    def versions(self) -> dict[str, int]:
        """Version of each policy by `kind/name`."""
        return {policy.key: policy.version for policy in self.policies}

    def resolve(self, capability: str, tenant: str, labels: Mapping[str, str]) -> Resolved:
        """Say what holds for a task. Remembered by what the policies can tell apart."""
        seen = tuple([labels.get(name) for name in self._labels]) if self._labels else ()
        key = (capability, tenant, seen)
        found = self._cache.get(key)
        if found is None:
            if len(self._cache) >= CACHE_LIMIT:
                self._cache.clear()
            found = self._cache[key] = self._resolve(capability, tenant, labels)
        return found

    def _resolve(self, capability: str, tenant: str, labels: Mapping[str, str]) -> Resolved:
        chosen = [
            policy
            for rules in self._rules.values()
            if (policy := _first_match(rules, capability, tenant, labels)) is not None
        ]
        timeout, attempts, plan = None, None, None
        for policy in chosen:
            if isinstance(policy, TimeoutPolicy):
                timeout = policy.spec.seconds
            else:
                attempts, plan = policy.spec.attempts, _plan(policy.spec)
        return Resolved(timeout, attempts, plan, {policy.key: policy.version for policy in chosen})

    def to_json(self) -> list[dict[str, Any]]:
        """Return the documents as JSON values."""
        return [policy.model_dump(mode="json") for policy in self.policies]

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what `to_json` wrote; raises `ValueError` if any document is wrong."""
        return cls(_DOCUMENTS.validate_python(value))


def _ordered(policies: Iterable[Policy], kind: str) -> tuple[_Rule, ...]:
    # A stable sort over documents that come sorted by name.
    own = [policy for policy in policies if policy.kind == kind]
    return tuple(
        _Rule(
            policy,
            _matcher(policy.match.capability),
            _matcher(policy.match.tenant),
            tuple((n, _matcher(g) or (lambda _: True)) for n, g in policy.match.labels.items()),
        )
        for policy in sorted(own, key=lambda p: p.match.specificity, reverse=True)
    )


def _first_match(
    rules: Iterable[_Rule], capability: str, tenant: str, labels: Mapping[str, str]
) -> Policy | None:
    return next((r.policy for r in rules if r.matches(capability, tenant, labels)), None)


def _is_glob(text: str) -> bool:
    return "*" in text or "?" in text


def _matcher(glob: str) -> Callable[[str], object] | None:
    if glob == ANY:
        return None
    if not _is_glob(glob):
        return glob.__eq__
    return re.compile(fnmatch.translate(glob.replace("[", "[[]"))).match


def _plan(spec: RetrySpec) -> RetryPlan:
    return RetryPlan(base=spec.base, factor=spec.factor, cap=spec.cap, codes=tuple(spec.codes))
