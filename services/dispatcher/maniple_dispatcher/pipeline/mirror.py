"""`mirror`: copies of some tasks go to a variant. Pure."""

from datetime import datetime, timedelta
from hashlib import blake2b

from msgspec.structs import replace

from maniple.messages import MAX_NAME, Envelope
from maniple.topology import lane_name
from maniple.traceparent import of_copy
from maniple_policies.kinds.mirror import MirrorPolicy
from maniple_policies.rules import share_of

MIRRORED = "~mirror"
MIRRORED_FOR = timedelta(minutes=5)


def mirrored(task: Envelope, policy: MirrorPolicy, now: datetime) -> Envelope | None:
    """Return the copy of a task for the mirror, or None if it is not among the mirrored.

    It is a task of its own (`<id>~mirror`) in a trace of its own, that nobody waits for: with one
    attempt, soon expired. Its `span` is the one that its trace is to be linked to.
    """
    spec = policy.spec
    if share_of(policy.key, task.tenant, task.id) >= spec.percent:
        return None
    name = task.id + MIRRORED
    if len(name) > MAX_NAME:
        name = blake2b(task.id.encode(), digest_size=16).hexdigest() + MIRRORED
    return replace(
        task,
        id=name,
        lane=lane_name(task.capability, spec.variant),
        deadline=min(task.deadline, now + MIRRORED_FOR),
        accepted=True,  # a copy is not announced
        affinity=None,
        bulkhead=None,
        payload_digest=None,
        reply_to=None,
        correlation_id=None,
        max_attempts=1,
        mirror_of=task.id,
        traceparent=task.traceparent and of_copy(task.traceparent),
        policies={**task.policies, policy.key: policy.version},
    )
