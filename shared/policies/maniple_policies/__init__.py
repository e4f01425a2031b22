"""Policies: the documents, which of them holds for a task, and what that says. Pure."""

from maniple_policies.differences import as_yaml, difference, readable
from maniple_policies.documents import (
    KINDS,
    BulkheadPolicy,
    CircuitBreakerPolicy,
    Document,
    FallbackPolicy,
    InForce,
    Kind,
    MirrorPolicy,
    Policy,
    RateLimitPolicy,
    RetryPolicy,
    RoutePolicy,
    TimeoutPolicy,
    TtlPolicy,
    known_policy,
    parse_policy,
    problems_of,
    reasons_of,
)
from maniple_policies.explain import Explained, Question, RuleVerdict, explain
from maniple_policies.matching import Match, ties
from maniple_policies.policy_set import NOTHING, NOWHERE, Ceiling, PolicySet, Resolved
from maniple_policies.rules import Where
from maniple_policies.specs import CircuitBreakerSpec, FallbackSpec

__all__ = [
    "KINDS",
    "NOTHING",
    "NOWHERE",
    "BulkheadPolicy",
    "Ceiling",
    "CircuitBreakerPolicy",
    "CircuitBreakerSpec",
    "Document",
    "Explained",
    "FallbackPolicy",
    "FallbackSpec",
    "InForce",
    "Kind",
    "Match",
    "MirrorPolicy",
    "Policy",
    "PolicySet",
    "Question",
    "RateLimitPolicy",
    "Resolved",
    "RetryPolicy",
    "RoutePolicy",
    "RuleVerdict",
    "TimeoutPolicy",
    "TtlPolicy",
    "Where",
    "as_yaml",
    "difference",
    "explain",
    "known_policy",
    "parse_policy",
    "problems_of",
    "readable",
    "reasons_of",
    "ties",
]
