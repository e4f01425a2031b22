"""The table of the kinds of policy.

Everything else is derived from it: which documents are read, their JSON Schema, the order in which
they are evaluated and explained, what a set of policies says about a task, and which tables
docs/policies.md must have.
"""

from collections.abc import Mapping
from types import MappingProxyType

from maniple_policies.kinds.bulkhead import BulkheadPolicy
from maniple_policies.kinds.circuit_breaker import CircuitBreakerPolicy
from maniple_policies.kinds.fallback import FallbackPolicy
from maniple_policies.kinds.mirror import MirrorPolicy
from maniple_policies.kinds.rate_limit import RateLimitPolicy
from maniple_policies.kinds.retry import RetryPolicy
from maniple_policies.kinds.route import RoutePolicy
from maniple_policies.kinds.timeout import TimeoutPolicy
from maniple_policies.kinds.ttl import TtlPolicy
from maniple_policies.policy import Policy

_DOCUMENTS: tuple[type[Policy], ...] = (
    RoutePolicy,
    RateLimitPolicy,
    BulkheadPolicy,
    CircuitBreakerPolicy,
    FallbackPolicy,
    MirrorPolicy,
    RetryPolicy,
    TimeoutPolicy,
    TtlPolicy,
)

KINDS: Mapping[str, type[Policy]] = MappingProxyType(
    {document.model_fields["kind"].default: document for document in _DOCUMENTS}
)
"""The document of each kind by its name, in the order in which they are evaluated.

A task's `route` is the first: it decides which lane's breaker is asked.
"""
