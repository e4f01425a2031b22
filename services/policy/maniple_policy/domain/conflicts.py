"""Documents between which nothing decides, in a whole set of them."""

from collections.abc import Iterable, Iterator, Mapping

from maniple.service.policies import InForce, Policy, ties


def conflicts(among: Mapping[str, InForce], changed: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the ties that one of the `changed` keys has a part in, as (changed, other).

    What a rollout leaves to the others is in force too, and counts.
    """
    for key in changed:
        for other, in_force in among.items():
            if other != key and any(
                any(ties(document, _documents(in_force))) for document in _documents(among[key])
            ):
                yield key, other


def _documents(one: InForce) -> tuple[Policy, ...]:
    return (one.policy,) if one.before is None else (one.policy, one.before)
