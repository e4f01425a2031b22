"""The last good results: what a fallback may give in place of running a task again. Pure.

A task that falls under such a fallback carries a digest of its payload, and so does its result in
the records, from which every dispatcher learns what was good, whoever sent the task on.
"""

from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple

from msgspec import Raw

from maniple.messages import Envelope, Result, Status

MAX_BYTES = 64 * 1024**2
ENTRY = 500  # bytes that one takes besides its output


def digest_of(payload: Raw) -> str:
    """Return what is the same for the same bytes of JSON."""
    return blake2b(payload, digest_size=16).hexdigest()


class _Key(NamedTuple):
    tenant: str
    capability: str
    payload_digest: str


class _Good(NamedTuple):
    output: bytes
    at: datetime


class ResultCache:
    """By tenant, capability and payload; above `MAX_BYTES` those learned first are forgotten."""

    def __init__(self) -> None:
        self._kept: dict[_Key, _Good] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def learn_result(self, result: Result) -> None:
        """Take a result, if an agent made it and it is good."""
        if (
            result.status is not Status.SUCCEEDED
            or not result.payload_digest
            or result.agent is None  # another fallback's
            or result.finished_at is None
            or result.finished_at.tzinfo is None  # none of our agents'
        ):
            return
        key = _Key(result.tenant, result.capability, result.payload_digest)
        known = self._kept.get(key)
        if known is not None and known.at > result.finished_at:
            return  # an agent that was cut off tells it late
        self._forget(key)
        good = _Good(bytes(result.output), result.finished_at)
        self._kept[key] = good
        self._bytes += ENTRY + len(good.output)
        while self._bytes > MAX_BYTES:
            self._forget(next(iter(self._kept)))

    def find(self, envelope: Envelope, oldest: datetime) -> Raw | None:
        """Return the output for a task with this payload, if it is not older than that."""
        if envelope.payload_digest is None:
            return None
        key = _Key(envelope.tenant, envelope.capability, envelope.payload_digest)
        good = self._kept.get(key)
        return None if good is None or good.at < oldest else Raw(good.output)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._bytes = 0

    def _forget(self, key: _Key) -> None:
        good = self._kept.pop(key, None)
        if good is not None:
            self._bytes -= ENTRY + len(good.output)
