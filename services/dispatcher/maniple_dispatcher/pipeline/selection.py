"""Which way a task goes by its policies: its variant, its mirror, and by which limits. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import blake2b

from msgspec.structs import replace

from maniple.messages import MAX_NAME, Envelope
from maniple.service.policies.kinds.bulkhead import BulkheadPolicy
from maniple.service.policies.kinds.mirror import MirrorPolicy
from maniple.service.policies.kinds.rate_limit import RateLimitPolicy
from maniple.service.policies.kinds.route import RoutePolicy
from maniple.service.policies.rules import share_of
from maniple.topology import lane_name
from maniple.traceparent import of_copy
from maniple_dispatcher.limits.lease_client import Limit
from maniple_dispatcher.limits.token_bucket import Terms

MIRRORED = "~mirror"
MIRRORED_FOR = timedelta(minutes=5)
_LABEL = "label:"


def value_of(envelope: Envelope, key: str) -> str:
    """Return what a limit is divided by: the capability, the tenant, or a label."""
    if key.startswith(_LABEL):
        return envelope.labels.get(key.removeprefix(_LABEL), "")
    return envelope.capability if key == "capability" else envelope.tenant


def rate_limit_of(policy: RateLimitPolicy, envelope: Envelope) -> Limit:
    """Return the limit that a task needs a token of."""
    spec = policy.spec
    reserve = spec.max_wait if spec.over == "shape" else 0.0
    # While a version is rolled out, those who have it have a bucket of their own.
    partial = "" if policy.rollout is None or policy.rollout.whole else "*"
    name = _divided(policy.key + partial, spec.per, envelope)
    return Limit(name, Terms(spec.rate, spec.capacity, reserve))


def bulkhead_of(policy: BulkheadPolicy, envelope: Envelope) -> Limit:
    """Return the bulkhead that a task needs room in."""
    name = _divided(policy.key, policy.spec.per, envelope)
    return Limit(name, most=policy.spec.max_in_flight, lane=envelope.lane)


def _divided(name: str, per: Sequence[str], envelope: Envelope) -> str:
    return "\0".join([name, *[value_of(envelope, key) for key in per]]) if per else name


def routed(policy: RoutePolicy, envelope: Envelope) -> Envelope:
    """Return a task on the lane of its variant."""
    spec = policy.spec
    sticky = _sticky(spec.sticky, envelope)
    place = share_of(policy.key, envelope.tenant, sticky) / 100 * spec.weight
    for share in spec.variants:
        place -= share.weight
        if place < 0:
            break
    lane = lane_name(envelope.capability, share.variant)
    return envelope if lane == envelope.lane else replace(envelope, lane=lane)


def _sticky(sticky: str, envelope: Envelope) -> str:
    if sticky == "affinity":
        return envelope.affinity or envelope.id
    if sticky == "tenant":
        return envelope.tenant
    if sticky.startswith(_LABEL):
        return envelope.labels.get(sticky.removeprefix(_LABEL)) or envelope.id
    return envelope.id


def mirrored(policy: MirrorPolicy, envelope: Envelope, now: datetime) -> Envelope | None:
    """Return the copy of a task for the mirror, or None if it is not among the mirrored.

    It is a task of its own (`<id>~mirror`) in a trace of its own, that nobody waits for: with one
    attempt, soon expired. Its `span` is the one that its trace is to be linked to.
    """
    spec = policy.spec
    if share_of(policy.key, envelope.tenant, envelope.id) >= spec.percent:
        return None
    name = envelope.id + MIRRORED
    if len(name) > MAX_NAME:
        name = blake2b(envelope.id.encode(), digest_size=16).hexdigest() + MIRRORED
    return replace(
        envelope,
        id=name,
        lane=lane_name(envelope.capability, spec.variant),
        deadline=min(envelope.deadline, now + MIRRORED_FOR),
        accepted=True,  # a copy is not announced
        affinity=None,
        bulkhead=None,
        payload_digest=None,
        reply_to=None,
        correlation_id=None,
        max_attempts=1,
        mirror_of=envelope.id,
        traceparent=envelope.traceparent and of_copy(envelope.traceparent),
        policies={**envelope.policies, policy.key: policy.version},
    )
