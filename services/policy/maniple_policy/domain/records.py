"""What is stored of a policy: its present revision and earlier ones."""

import json
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict
from pydantic_core import from_json

from maniple_policies import Document, InForce, Policy, parse_policy

HISTORY_KEPT = 200
HISTORY_BYTES = 192 * 1024  # of JSON; Consul takes 512 KiB of base64 in a transaction
CONSUL = "consul"
EDITED = "edited in Consul"


class Revision(BaseModel):
    """One version of a policy, which is its document's `version`; a tombstone is `deleted`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Document
    author: str
    at: AwareDatetime
    reason: str = ""
    deleted: bool = False

    def says_the_same(self, other: "Revision") -> bool:
        """Tell whether both would decide the same."""
        return self.deleted == other.deleted and _content(self) == _content(other)


def _content(revision: Revision) -> dict[str, Any]:
    return revision.policy.model_dump(mode="json", exclude={"version"})


class Stored(Revision):
    """The value of a policy's key: its present revision, then older ones, the latest first."""

    history: tuple[Revision, ...] = ()

    @property
    def key(self) -> str:
        """`kind/name`."""
        return self.policy.key

    @property
    def version(self) -> int:
        """Of the present revision."""
        return self.policy.version

    @property
    def revision(self) -> Revision:
        """The present revision without those before it."""
        return Revision.model_validate(self.model_dump(exclude={"history"}))

    @cached_property
    def in_force(self) -> InForce:
        """The present document and, while it is rolled out, the last one that applied to all."""
        if _is_whole(self.policy):
            return InForce(policy=self.policy)
        whole = (r for r in self.history if r.deleted or _is_whole(r.policy))
        last = next(whole, None)
        before = None if last is None or last.deleted else last.policy
        return InForce(policy=self.policy, before=before)

    def version_before(self, version: int) -> Revision | None:
        """Return the latest revision that is older than a version."""
        return next((r for r in self.revisions if r.policy.version < version), None)

    def find(self, version: int) -> Revision | None:
        """Return one revision; None if it does not exist, or is not kept any more."""
        return next((r for r in self.revisions if r.policy.version == version), None)

    def as_of(self, version: int) -> "Stored | None":
        """Return the record as it was at a version; None as `find` does."""
        revision = self.find(version)
        if revision is None:
            return None
        older = tuple(r for r in self.history if r.policy.version < version)
        return Stored(**dict(revision), history=older)

    @property
    def before(self) -> "Stored | None":
        """The record that this one replaced; None for the first, or if it is not kept."""
        return self.as_of(self.history[0].policy.version) if self.history else None

    @property
    def revisions(self) -> tuple[Revision, ...]:
        """All revisions that are kept, the present one first."""
        return (self.revision, *self.history)

    def to_json(self) -> bytes:
        """Write the value of the key, readable for people."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False).encode()


def revision_of(records: Iterable[Stored]) -> int:
    """Return the revision of a whole set, with tombstones: every change raises it."""
    return sum(record.version for record in records)


def _is_whole(policy: Policy) -> bool:
    return policy.rollout is None or policy.rollout.whole


class Bare(BaseModel):
    """A document that somebody wrote straight into Consul, without a history."""

    policy: Document

    @classmethod
    def from_value(cls, value: Any) -> Self:
        """Read a value; raises `pydantic.ValidationError`."""
        return cls(policy=parse_policy(value))


def read(key: str, value: bytes) -> Stored | Bare:
    """Read a key's value; raises `ValueError` for one that cannot be used."""
    try:
        content = from_json(value, allow_inf_nan=False)  # unlike `json`, refuses what is no Unicode
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("must be a JSON object")  # noqa: TRY004 - all that is unusable is one error
    found = Stored.model_validate(content) if "policy" in content else Bare.from_value(content)
    if found.policy.key != key:
        raise ValueError(f"holds the policy {found.policy.key}")
    return found


def _remembered(before: Stored) -> tuple[Revision, ...]:
    kept: list[Revision] = []
    size = 0
    past = (before.revision, *before.history)
    for revision in past[:HISTORY_KEPT]:
        size += len(revision.model_dump_json(indent=1).encode())
        if size > HISTORY_BYTES:
            break
        kept.append(revision)
    # However long a rollout goes on, the others need the version that they have.
    whole = next((r for r in past if r.deleted or _is_whole(r.policy)), None)
    if whole is not None and whole not in kept:
        kept[-1:] = [whole]
    return tuple(kept)


def succeed(before: Stored | None, change: Revision, floor: int = 0) -> Stored:
    """Return the record after `change`, whose version becomes the next one, above `floor`."""
    version = max(before.version if before else 0, floor) + 1
    policy = change.policy.model_copy(update={"version": version})
    return Stored(
        policy=policy,
        author=change.author,
        at=change.at,
        reason=change.reason,
        deleted=change.deleted,
        history=_remembered(before) if before else (),
    )
