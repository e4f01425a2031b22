"""Policies as the policy service keeps them: with a history, and in the keys of a Consul."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from maniple_policies import parse_policy
from maniple_policy.domain.records import Revision, Stored, succeed
from maniple_runtime.consul.catalog import CatalogEntry, Put

NOW = datetime(2026, 11, 29, tzinfo=UTC)
NAME = "t"
KEY = f"timeout/{NAME}"


def document(name: str, seconds: float = 3.0, **match: str) -> dict[str, Any]:
    """A timeout; without a selector, one of its own, so that no two are a tie."""
    match = match or {"capability": f"{name}.*"}
    return {"kind": "timeout", "name": name, "match": match, "spec": {"seconds": seconds}}


def revision(seconds: float = 1.0) -> Revision:
    """What somebody made of the timeout `t`."""
    return Revision(policy=parse_policy(document(NAME, seconds)), author="ann", at=NOW)


def record(*seconds: float) -> Stored:
    """That timeout with one version for each value."""
    made: Stored | None = None
    for one in seconds:
        made = succeed(made, revision(one))
    assert made is not None
    return made


class KeptKeys:
    """The keys of a Consul, which takes transactions as it does."""

    def __init__(self) -> None:
        self.keys: dict[str, CatalogEntry] = {}
        self.index = 0

    async def kv_list(self, prefix: str) -> tuple[int, list[CatalogEntry]]:
        return self.index, [one for key, one in self.keys.items() if key.startswith(prefix)]

    async def transaction(self, puts: Sequence[Put]) -> bool:
        found = [self.keys.get(put.key) for put in puts]
        if [put.cas for put in puts] != [one.index if one else 0 for one in found]:
            return False
        self.index += 1
        self.keys |= {put.key: CatalogEntry(put.key, put.value, self.index) for put in puts}
        return True
