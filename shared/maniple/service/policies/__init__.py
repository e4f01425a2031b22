"""Policies: the documents, which of them holds for a task, and what that says. Pure."""

from maniple.service.policies.bounds import Ceiling
from maniple.service.policies.differences import as_yaml, difference, readable
from maniple.service.policies.documents import (
    Document,
    InForce,
    known_policy,
    parse_policy,
    problems_of,
    reasons_of,
)
from maniple.service.policies.explain import Explained, Question, RuleVerdict, explain
from maniple.service.policies.matching import Match, ties
from maniple.service.policies.policy import Policy
from maniple.service.policies.policy_set import NOTHING, NOWHERE, PolicySet, Resolved
from maniple.service.policies.registry import KINDS
from maniple.service.policies.rules import Where

__all__ = [
    "KINDS",
    "NOTHING",
    "NOWHERE",
    "Ceiling",
    "Document",
    "Explained",
    "InForce",
    "Match",
    "Policy",
    "PolicySet",
    "Question",
    "Resolved",
    "RuleVerdict",
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
