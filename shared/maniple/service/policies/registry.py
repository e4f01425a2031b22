"""The table of the kinds of policy.

All else follows from it: which documents are read, their JSON Schema, the order in which they are
evaluated and explained, what a set of policies says about a task, and which tables
docs/policies.md must have.
"""

from collections.abc import Mapping
from types import MappingProxyType

from maniple.service.policies.kinds.bulkhead import BulkheadPolicy
from maniple.service.policies.kinds.circuit_breaker import CircuitBreakerPolicy
from maniple.service.policies.kinds.fallback import FallbackPolicy
from maniple.service.policies.kinds.mirror import MirrorPolicy
from maniple.service.policies.kinds.rate_limit import RateLimitPolicy
from maniple.service.policies.kinds.retry import RetryPolicy
from maniple.service.policies.kinds.route import RoutePolicy
from maniple.service.policies.kinds.timeout import TimeoutPolicy
from maniple.service.policies.kinds.ttl import TtlPolicy
from maniple.service.policies.policy import Policy

_DOCUMENTS: tuple[type[Policy], ...] = (
    RateLimitPolicy,
    BulkheadPolicy,
    CircuitBreakerPolicy,
    FallbackPolicy,
    RoutePolicy,
    MirrorPolicy,
    RetryPolicy,
    TimeoutPolicy,
    TtlPolicy,
)

KINDS: Mapping[str, type[Policy]] = MappingProxyType(
    {document.model_fields["kind"].default: document for document in _DOCUMENTS}
)
"""The document of each kind by its name, in the order in which they are evaluated."""
