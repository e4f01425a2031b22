"""The documents: nine kinds of policy.

A new kind is a spec, a document class in `Document`, and a field of `Resolved`.
"""

from collections.abc import Iterator
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from maniple_policies.digests import canonical
from maniple_policies.matching import ANY, NEW, Match, StrictModel
from maniple_policies.specs import (
    CEILING,
    PLAIN,
    BulkheadSpec,
    CircuitBreakerSpec,
    FallbackSpec,
    MirrorSpec,
    Percent,
    RateLimitSpec,
    RetrySpec,
    RouteSpec,
    TimeoutSpec,
    TtlSpec,
)

MOST_VERSIONS = 2**40
"""Those of thousands of policies together are then a revision, see `maniple_runtime.events`."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]


class Kind(StrEnum):
    """The kinds of policy, in the order in which they are evaluated."""

    RATE_LIMIT = "rate_limit"
    BULKHEAD = "bulkhead"
    CIRCUIT_BREAKER = "circuit_breaker"
    FALLBACK = "fallback"
    ROUTE = "route"
    MIRROR = "mirror"
    RETRY = "retry"
    TIMEOUT = "timeout"
    TTL = "ttl"


class Rollout(StrictModel):
    """For which share a version already holds; the others have the last whole version.

    `by` task: for `percent` of the tasks, the same ones as long as it only rises. `by` instance:
    for about `percent` of the processes that evaluate it.
    """

    percent: Percent
    by: Literal["instance", "task"] = "task"

    @property
    def whole(self) -> bool:
        """Whether it holds for all."""
        return self.percent >= 100  # noqa: PLR2004 - percent


class _Policy(StrictModel):
    name: Name
    match: Match = Match()
    rollout: Rollout | None = None
    version: int = Field(default=0, ge=0, le=MOST_VERSIONS)

    @cached_property
    def key(self) -> str:
        """`kind/name`, by which results and processes tell what decided."""
        return f"{self.kind}/{self.name}"  # type: ignore[attr-defined]  # each subclass has one


class RateLimitPolicy(_Policy):
    """A limit on how many tasks come in."""

    kind: Literal["rate_limit"] = "rate_limit"
    spec: RateLimitSpec


class BulkheadPolicy(_Policy):
    """A limit on how many tasks are under way."""

    kind: Literal["bulkhead"] = "bulkhead"
    spec: BulkheadSpec


class CircuitBreakerPolicy(_Policy):
    """A breaker for each lane that it matches; a lane is all tenants' and all labels'."""

    kind: Literal["circuit_breaker"] = "circuit_breaker"
    spec: CircuitBreakerSpec

    @model_validator(mode="after")
    def _is_of_lanes(self) -> Self:
        if self.match.tenant != ANY or self.match.labels or self.match.region != ANY:
            raise ValueError("a circuit_breaker is of lanes: match it by capability or instance")
        if self.rollout is not None and self.rollout.by == "task":
            raise ValueError("a circuit_breaker is of lanes: roll it out by instance")
        return self


class FallbackPolicy(_Policy):
    """What refused tasks get."""

    kind: Literal["fallback"] = "fallback"
    spec: FallbackSpec


class RoutePolicy(_Policy):
    """The variants of a capability, by weight."""

    kind: Literal["route"] = "route"
    spec: RouteSpec


class MirrorPolicy(_Policy):
    """Copies of tasks for a variant."""

    kind: Literal["mirror"] = "mirror"
    spec: MirrorSpec


class RetryPolicy(_Policy):
    """Attempts and their spacing."""

    kind: Literal["retry"] = "retry"
    spec: RetrySpec


class TimeoutPolicy(_Policy):
    """The time that an attempt may take."""

    kind: Literal["timeout"] = "timeout"
    spec: TimeoutSpec


class TtlPolicy(_Policy):
    """The time that a task may live."""

    kind: Literal["ttl"] = "ttl"
    spec: TtlSpec


Policy = (
    RateLimitPolicy
    | BulkheadPolicy
    | CircuitBreakerPolicy
    | FallbackPolicy
    | RoutePolicy
    | MirrorPolicy
    | RetryPolicy
    | TimeoutPolicy
    | TtlPolicy
)
Document = Annotated[Policy, Field(discriminator="kind")]
DOCUMENT: TypeAdapter[Policy] = TypeAdapter(Document)
KINDS = tuple(Kind)


class InForce(StrictModel):
    """A policy, and while it is being rolled out what the others have: its last whole version."""

    policy: Document
    before: Document | None = None

    @cached_property
    def as_json(self) -> dict[str, Any]:
        """The JSON value, made once, because a document is in many sets: not to be changed."""
        return self.model_dump(mode="json")

    @cached_property
    def as_text(self) -> str:
        """The same as canonical JSON."""
        return canonical(self.as_json)


def _field_path(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return where in a document an error is; pydantic puts in which way it was read."""
    path = (
        part
        for before, part in zip(("policy", *loc), loc, strict=False)
        if not (before == "policy" and part in KINDS)
    )
    return tuple(part for part in path if part not in (PLAIN, CEILING))


def problems_of(error: ValidationError) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Go through what is wrong with a document: where, and what, in words for who wrote it."""
    for item in error.errors(include_url=False, include_input=False):
        path, said = _field_path(item["loc"]), item["msg"].removeprefix("Value error, ")
        if item["type"].startswith("union_tag"):
            path = (*path, "kind")
            known = f"is none of {', '.join(KINDS)}"
            said = known if item["type"] == "union_tag_invalid" else "Field required"
        yield path, said


def reasons_of(error: ValidationError) -> str:
    """Return what is wrong with a document in one line."""
    return "; ".join(
        f"{'.'.join(map(str, path)) or 'document'}: {said}" for path, said in problems_of(error)
    )


def parse_policy(value: Any) -> Policy:
    """Read a document that is to come into force; raises `pydantic.ValidationError`."""
    return DOCUMENT.validate_python(value, context=NEW)


def known_policy(value: Any) -> Policy:
    """Read a document that is in force, or was; raises `pydantic.ValidationError`."""
    return DOCUMENT.validate_python(value)
