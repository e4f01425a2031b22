"""What requests have changed, kept beside the policies and written together with each change.

A request that comes again is told what it has done and does it once, whichever replica it comes to.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from maniple_policy.domain.changes import Step
from maniple_policy.domain.records import Stored

KEPT = 200  # requests
KEPT_BYTES = 32 * 1024  # beside up to 400 KiB of records, where Consul takes 512 KiB

Versions = Mapping[str, int]
"""By `kind/name`."""


class _Value(BaseModel):
    model_config = ConfigDict(extra="ignore")

    token: str
    requests: dict[str, dict[str, NonNegativeInt]]


@dataclass(frozen=True, slots=True)
class Memory:
    """Which versions requests have made, by the requests' identities, the latest last."""

    made: Mapping[str, Versions] = field(default_factory=dict)

    @classmethod
    def read(cls, value: bytes) -> Self:
        """Read what `to_value` wrote; anything else, as of an earlier release, says nothing."""
        try:
            return cls(_Value.model_validate_json(value).requests)
        except ValidationError:
            return cls()

    def to_value(self, token: str) -> bytes:
        """Write it, with as many of the latest requests as there is room for."""
        kept, size = dict[str, Versions](), 0
        for request, versions in reversed([*self.made.items()]):
            size += len(json.dumps({request: versions}))
            if len(kept) == KEPT or size > KEPT_BYTES:
                break
            kept[request] = versions
        latest_last = dict(reversed([*kept.items()]))
        return json.dumps({"token": token, "requests": latest_last}).encode()

    def after(self, request: str, records: Iterable[Stored]) -> "Memory":
        """Remember what a request has made besides what it made before."""
        if not request:
            return self
        others = {name: versions for name, versions in self.made.items() if name != request}
        news = {record.key: record.version for record in records}
        return Memory({**others, request: {**self.made.get(request, {}), **news}})

    def steps(self, request: str, records: Mapping[str, Stored]) -> dict[str, Step]:
        """Return what a request has done already, by `kind/name`."""
        done = {}
        for key, version in self.made.get(request, {}).items():
            record = records[key].as_of(version) if key in records else None
            if record is not None:
                done[key] = Step(record.before, record)
        return done
