"""The bodies of requests to the policy service. Unknown fields are refused."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from maniple_policy.domain.records import CONSUL
from maniple_runtime.control.field_types import Whole


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Change(_Body):
    """`expect` is the version that is replaced, 0 for none; a dry run stores nothing.

    `author` is the sender's claim; the names that the service itself writes are refused.
    """

    author: str = Field(default="unknown", min_length=1, max_length=256)
    reason: str = Field(default="", max_length=2000)
    expect: Whole | None = Field(default=None, ge=0)
    dry_run: bool = False

    @field_validator("author")
    @classmethod
    def _is_a_claim(cls, author: str) -> str:
        if author.strip().casefold() == CONSUL:
            raise ValueError(f"{CONSUL!r} is who edits in Consul")
        return author


class Which(_Body):
    """Names one policy."""

    kind: str
    name: str

    @property
    def policy_key(self) -> str:
        """`kind/name`."""
        return f"{self.kind}/{self.name}"


class Apply(Change):
    """`document` as in a policy file."""

    document: dict[str, Any]


class ApplyAll(Change):
    """Several documents, each of another policy; `expect` only beside a single one."""

    documents: list[dict[str, Any]] = Field(min_length=1, max_length=1000)


class Delete(Change, Which):
    """A tombstone for one policy."""


class Rollback(Change, Which):
    """A new version with what version `to` said."""

    to: Whole = Field(ge=1)


class Diff(Which):
    """Two versions: by default the present one, and the one before it."""

    before: Whole | None = Field(default=None, ge=1)
    after: Whole | None = Field(default=None, ge=1)


class Snapshot(BaseModel):
    """`digest` is of the set that the caller has; an equal one is not sent again.

    Processes send it, so unknown fields of newer ones are ignored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    digest: str = ""


class Explain(_Body):
    """A task, and the process that would decide; null where that is not known."""

    capability: str
    tenant: str = "default"
    labels: dict[str, str] = Field(default_factory=dict)
    task: str | None = None
    instance: str | None = None
    region: str = ""
