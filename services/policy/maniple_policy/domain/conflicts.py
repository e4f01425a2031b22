"""Ties between documents of a whole set."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from maniple_policies import InForce, Match, Policy


def conflicts(among: Mapping[str, InForce], changed: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the ties in which one of the `changed` keys is involved, as (changed, other).

    A version that is being replaced by a rollout is in force too, and counts.
    """
    peers = defaultdict[Any, list[tuple[str, Match]]](list)
    for key, one in among.items():
        for document in _documents(one):
            peers[_rank(document)].append((key, document.match))
    for key in changed:
        tied = {
            other: None
            for document in _documents(among[key])
            for other, match in peers[_rank(document)]
            if other != key and match.overlaps(document.match)
        }
        for other in tied:
            yield key, other


def _rank(document: Policy) -> tuple[Any, ...]:
    """Return a document's rank: of two that match the same tasks with equal rank neither wins."""
    return (document.kind, *document.match.specificity)


def _documents(one: InForce) -> tuple[Policy, ...]:
    return (one.policy,) if one.before is None else (one.policy, one.before)
