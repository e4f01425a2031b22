"""What is announced of a policy that has changed."""

import json
from datetime import datetime

from maniple_policies import PolicySet
from maniple_policy.domain.records import Stored
from maniple_runtime.events import PolicyChanged

PUSHED_BYTES = 16 * 1024  # of a document that its event carries


def event_of(record: Stored, policies: PolicySet, at: datetime, *, alone: bool) -> PolicyChanged:
    """Return the event of a record in force; it carries the document if the change is `alone`."""
    in_force = None if record.deleted else record.in_force.as_json
    pushed = alone and len(json.dumps(in_force)) <= PUSHED_BYTES
    return PolicyChanged(
        at=at,
        kind=record.policy.kind,
        name=record.policy.name,
        version=record.version,
        deleted=record.deleted,
        digest=policies.digest,
        revision=policies.revision,
        author=record.author,
        in_force=in_force if pushed else None,
    )
