"""The effects of requests, stored beside the policies and written together with each change.

So a request that arrives again is answered with its earlier effect, whichever replica it comes to.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from maniple_policy.domain.changes import Step
from maniple_policy.domain.records import Stored
from maniple_runtime.control.field_types import Whole

KEPT = 200  # requests
KEPT_BYTES = 32 * 1024  # beside up to 400 KiB of records, where Consul takes 512 KiB

Ends = tuple[Whole, ...]
"""The effect on each policy of a request: the version made, minus the unchanged version, or 0."""


class _Value(BaseModel):
    model_config = ConfigDict(extra="ignore")

    token: str
    requests: dict[str, Ends]


@dataclass(frozen=True, slots=True)
class RequestLog:
    """The effects of requests, by their identities, the latest last."""

    ends: Mapping[str, Ends] = field(default_factory=dict)

    @classmethod
    def read(cls, value: bytes) -> Self:
        """Read what `to_value` wrote; anything else, as of an earlier release, counts as empty."""
        try:
            return cls(_Value.model_validate_json(value).requests)
        except ValidationError:
            return cls()

    def to_value(self, token: str) -> bytes:
        """Write it, with as many of the latest requests as fit."""
        kept, size = dict[str, Ends](), 0
        for request, ends in reversed([*self.ends.items()]):
            more = len(json.dumps({request: ends}))
            if len(kept) < KEPT and size + more <= KEPT_BYTES:
                kept[request] = ends
                size += more
        latest_last = dict(reversed([*kept.items()]))
        return json.dumps({"token": token, "requests": latest_last}).encode()

    def after(self, request: str, keys: Sequence[str], done: Mapping[str, Step]) -> "RequestLog":
        """Return the log with what a request about these policies has done until now."""
        others = {name: ends for name, ends in self.ends.items() if name != request}
        return RequestLog({**others, request: tuple(_end(done.get(key)) for key in keys)})

    def steps(
        self, request: str, keys: Sequence[str], records: Mapping[str, Stored]
    ) -> dict[str, Step]:
        """Return what a request has done before, by `kind/name`."""
        done = {}
        for key, end in zip(keys, self.ends.get(request, ()), strict=False):
            if end and key in records:
                # Of a version that is no longer remembered, the present one has to do.
                record = records[key].as_of(abs(end)) or records[key]
                done[key] = Step(record.before if end > 0 else record, record)
        return done


def _end(step: Step | None) -> int:
    if step is None:
        return 0
    return step.record.version if step.changed else -step.record.version
