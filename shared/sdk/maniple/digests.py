"""Digests of JSON values, by which processes compare their state."""

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits, equal for equal JSON values whatever the order of keys."""
    return digest_of(canonical(value))


def canonical(value: Any) -> str:
    """Return JSON that is equal for equal values whatever the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(text: str) -> str:
    """Return the digest of a value that is already canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
