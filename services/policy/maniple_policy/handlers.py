"""What the policy service is asked for, on `maniple.requests` under the key `policy`."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maniple.control import Request
from maniple.service.policies import parse_policy
from maniple.service.requests import Responder
from maniple_policy.domain.records import Revision, Stored
from maniple_policy.errors import InvalidPolicy, StoreUnavailable, UnknownPolicy
from maniple_policy.store import Store


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Apply(_Body):
    """`document` as in a policy file; `expect` is the version it replaces, 0 for none."""

    document: dict[str, Any]
    author: str = Field(default="unknown", max_length=256)
    reason: str = Field(default="", max_length=2000)
    expect: int | None = Field(default=None, ge=0)


class Which(_Body):
    """Names one policy."""

    kind: str
    name: str

    @property
    def key(self) -> str:
        """`kind/name`."""
        return f"{self.kind}/{self.name}"


class Delete(Which):
    """A tombstone for one policy."""

    author: str = Field(default="unknown", max_length=256)
    reason: str = Field(default="", max_length=2000)
    expect: int | None = Field(default=None, ge=0)


class Snapshot(_Body):
    """`digest` is of the set that the caller has; an equal one is not sent again."""

    digest: str = ""


class Handlers:
    """The operations. Each takes a request and returns a JSON object."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def apply(self, request: Request) -> dict[str, Any]:
        """Store a document under its next version."""
        body = Apply.model_validate(request.body)
        document = {name: value for name, value in body.document.items() if name != "version"}
        try:
            policy = parse_policy(document)
        except ValidationError as error:
            raise InvalidPolicy(_reasons(error)) from error
        change = Revision(policy=policy, author=body.author, at=self._now(), reason=body.reason)
        record, changed = await self._store.change(change, body.expect)
        return {**_shown(record), "changed": changed, "digest": self._store.policies.digest}

    async def delete(self, request: Request) -> dict[str, Any]:
        """Store a tombstone; the policy no longer decides anything."""
        body = Delete.model_validate(request.body)
        record = self._found(body.key)
        change = record.revision.model_copy(
            update={
                "author": body.author,
                "at": self._now(),
                "reason": body.reason,
                "deleted": True,
            }
        )
        record, changed = await self._store.change(change, body.expect)
        return {**_shown(record), "changed": changed, "digest": self._store.policies.digest}

    async def get(self, request: Request) -> dict[str, Any]:
        """Return one policy with its history."""
        record = self._found(Which.model_validate(request.body).key)
        return record.model_dump(mode="json")

    async def list(self, _request: Request) -> dict[str, Any]:
        """Return all policies in force, without their history."""
        self._check_known()
        records = sorted(self._store.records.values(), key=lambda r: r.key)
        shown = [_shown(record) for record in records if not record.deleted]
        return {"policies": shown, "digest": self._store.policies.digest}

    async def snapshot(self, request: Request) -> dict[str, Any]:
        """Return the documents in force and their digest; no documents if the caller has them."""
        body = Snapshot.model_validate(request.body)
        self._check_known()
        policies = self._store.policies
        if body.digest == policies.digest:
            return {"digest": policies.digest}
        return {"digest": policies.digest, "policies": policies.to_json()}

    def _check_known(self) -> None:
        if not self._store.known:
            raise StoreUnavailable("Consul was not read yet and nothing is kept on disk")

    def _found(self, key: str) -> Stored:
        self._check_known()
        record = self._store.records.get(key)
        if record is None or record.deleted:
            raise UnknownPolicy(key)
        return record


def _shown(record: Stored) -> dict[str, Any]:
    return record.revision.model_dump(mode="json")


def _reasons(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}" for e in found)


def routes(handlers: Handlers) -> Mapping[str, Responder]:
    """Which operation answers which request."""
    return {
        "policy.apply": handlers.apply,
        "policy.delete": handlers.delete,
        "policy.get": handlers.get,
        "policy.list": handlers.list,
        "policy.snapshot": handlers.snapshot,
    }
