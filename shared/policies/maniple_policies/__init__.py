"""Policies: their documents, which of them applies to a task, and what that gives. Pure."""

from maniple_policies.bounds import Ceiling
from maniple_policies.differences import as_yaml, difference, readable
from maniple_policies.documents import (
    Document,
    InForce,
    known_policy,
    parse_policy,
    problems_of,
    reasons_of,
)
from maniple_policies.explain import Explained, Question, RuleVerdict, explain
from maniple_policies.matching import Match, ties
from maniple_policies.policy import Policy
from maniple_policies.policy_set import NOTHING, NOWHERE, PolicySet, Resolved
from maniple_policies.registry import KINDS
from maniple_policies.rules import Where

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
