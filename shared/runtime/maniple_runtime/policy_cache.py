"""The last good set of policies on disk, with which a process starts without the policy service."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maniple_policies import NOWHERE, PolicySet, Where
from maniple_runtime.events import MAX_REVISION
from maniple_runtime.telemetry import get_logger

log = get_logger("maniple.policies")


def write_atomically(path: Path, value: Any) -> None:
    """Replace a JSON file so that a reader, or a crash, finds the old one or the new one."""
    text = json.dumps(value, separators=(",", ":"))  # in one piece, which is much faster
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: containers that share a folder may have the same.
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read_json(path: Path) -> Any:
    """Return the file's value; None if it is missing or not JSON, which is logged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("unreadable file; going on without it", path=str(path), reason=str(error))
        return None


class PolicyCache:
    """One process's copy: `<data_dir>/<environment>/<file>`, and beside it its revision.

    The revision has a file of its own, with the digest of its set, because older releases read the
    first file too.
    """

    def __init__(self, path: Path, where: Where = NOWHERE) -> None:
        self.path = path
        self.where = where

    def load(self) -> PolicySet | None:
        """Return the set that was stored last; None if none can be read."""
        value = read_json(self.path)
        if value is None:
            return None
        try:
            policies = PolicySet.from_json(value, self.where)
            return policies.at_revision(self._revision_of(policies.digest))
        except ValueError as error:
            log.warning("policies on disk are wrong", path=str(self.path), reason=str(error))
            return None

    def store(self, policies: PolicySet) -> None:
        """Write a set; an `OSError` is logged, because the process can do without."""
        try:
            write_atomically(self.path, policies.to_json())
            said = {"digest": policies.digest, "revision": policies.revision}
            write_atomically(self._beside, said)
        except OSError as error:
            log.warning("policies not kept on disk", path=str(self.path), reason=str(error))

    @property
    def _beside(self) -> Path:
        return self.path.with_name(f"{self.path.stem}-revision.json")

    def _revision_of(self, digest: str) -> int | None:
        said = read_json(self._beside)
        if not isinstance(said, dict) or said.get("digest") != digest:
            return None
        return revision_in(said)


def revision_in(said: Mapping[str, Any]) -> int | None:
    """Return the revision in an object; None if it has none."""
    value = said.get("revision")
    is_one = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_REVISION
    return value if is_one else None
