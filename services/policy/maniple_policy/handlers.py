"""What the policy service is asked for, on `maniple.requests` under the key `policy`."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from maniple.errors import RequestFailed
from maniple_policies import Policy, parse_policy, reasons_of
from maniple_policy.domain.changes import Step, Wanted
from maniple_policy.domain.reach import doubts
from maniple_policy.domain.records import Revision
from maniple_policy.errors import InvalidPolicy, UnknownVersion
from maniple_policy.queries import PolicyQueries, changed
from maniple_policy.requests import Apply, ApplyAll, Change, Delete, Rollback
from maniple_runtime.control.requests import Asked


class PolicyHandlers:
    """The operations that change. Each takes a request and returns a JSON object."""

    def __init__(self, answers: PolicyQueries, now: Callable[[], datetime]) -> None:
        self._answers = answers
        self._store = answers.store
        self._now = now

    async def apply(self, request: Asked) -> dict[str, Any]:
        """Store a document under its next version."""
        body = Apply.model_validate(request.body)
        change = self._revision(_parsed(body.document), body.author, body.reason)
        wanted = Wanted(change, body.expect)
        return await self._change_one(request, body, wanted.key, lambda: wanted)

    async def apply_all(self, request: Asked) -> dict[str, Any]:
        """Store several documents, if all of them can be; nothing if one is wrong."""
        body = ApplyAll.model_validate(request.body)
        policies = [_parsed(document, n) for n, document in enumerate(body.documents)]
        keys = [policy.key for policy in policies]
        if len(set(keys)) < len(keys):
            raise InvalidPolicy("two documents of the same kind and name")
        if body.expect is not None and len(policies) > 1:
            raise RequestFailed("invalid_request", "expect is for a single document")
        wanted = [
            Wanted(self._revision(policy, body.author, body.reason), body.expect)
            for policy in policies
        ]
        done = await self._change(request, keys, lambda: wanted, dry_run=body.dry_run)
        return {"applied": done, "digest": self._store.policies.digest}

    async def delete(self, request: Asked) -> dict[str, Any]:
        """Store a tombstone; the policy no longer decides anything."""
        body = Delete.model_validate(request.body)

        def wanted() -> Wanted:
            policy = self._answers.found(body.policy_key).policy
            change = self._revision(policy, body.author, body.reason, deleted=True)
            return Wanted(change, body.expect)

        return await self._change_one(request, body, body.policy_key, wanted)

    async def rollback(self, request: Asked) -> dict[str, Any]:
        """Store what an older version said as a new one; of a deleted policy too."""
        body = Rollback.model_validate(request.body)

        def wanted() -> Wanted:
            record = self._answers.found(body.policy_key, deleted=True)
            revision = self._answers.revision(record, body.to)
            if revision.deleted:
                raise UnknownVersion(body.policy_key, body.to)
            reason = body.reason or f"rollback to version {body.to}"
            return Wanted(self._revision(revision.policy, body.author, reason), body.expect)

        return await self._change_one(request, body, body.policy_key, wanted)

    def _revision(
        self, policy: Policy, author: str, reason: str, *, deleted: bool = False
    ) -> Revision:
        return Revision(
            policy=policy, author=author, at=self._now(), reason=reason, deleted=deleted
        )

    async def _change_one(
        self, request: Asked, body: Change, key: str, wanted: Callable[[], Wanted]
    ) -> dict[str, Any]:
        (done,) = await self._change(request, [key], lambda: [wanted()], dry_run=body.dry_run)
        return {**done, "digest": self._store.policies.digest}

    async def _change(
        self,
        request: Asked,
        keys: Sequence[str],
        wanted: Callable[[], Sequence[Wanted]],
        *,
        dry_run: bool,
    ) -> list[dict[str, Any]]:
        if dry_run:
            self._answers.check_known()
            steps = self._store.plan(wanted())
        else:
            steps = await self._store.change(request, keys, wanted)
        return [await self._told(step, dry_run=dry_run) for step in steps]

    async def _told(self, step: Step, *, dry_run: bool) -> dict[str, Any]:
        record, policy = step.record, step.record.policy
        known = await self._answers.fleet.known()
        processes = self._answers.reports.instances
        return {
            **record.revision.model_dump(mode="json"),
            "changed": step.changed,
            "replaces": step.before.version if step.before else 0,
            "dry_run": dry_run,
            "diff": changed(step.before, record),
            "warnings": [] if record.deleted else doubts(policy, known, processes),
            "touches": None if known is None else known.touched(policy),
        }


def _parsed(document: Mapping[str, Any], number: int | None = None) -> Policy:
    try:
        return parse_policy({name: v for name, v in document.items() if name != "version"})
    except ValidationError as error:
        which = "" if number is None else f"document {number + 1}: "
        raise InvalidPolicy(which + reasons_of(error)) from error
