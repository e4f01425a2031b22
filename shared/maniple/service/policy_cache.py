"""The last good set of policies on disk, from which a process starts without the policy service."""

import json
import os
from pathlib import Path
from typing import Any

from maniple.service.policies import PolicySet
from maniple.service.telemetry import get_logger

log = get_logger("maniple.policies")


def write_atomically(path: Path, value: Any) -> None:
    """Replace a JSON file so that a reader, or a crash, finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(value, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read_json(path: Path) -> Any:
    """Return what the file holds; None if it is not there or not JSON, which is logged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("unreadable file; going on without it", path=str(path), reason=str(error))
        return None


class PolicyCache:
    """One process's copy: `<data_dir>/<environment>/<file>`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> PolicySet | None:
        """Return the set that was stored last; None if there is none that can be read."""
        value = read_json(self.path)
        if value is None:
            return None
        try:
            return PolicySet.from_json(value)
        except ValueError as error:
            log.warning("policies on disk are wrong", path=str(self.path), reason=str(error))
            return None

    def store(self, policies: PolicySet) -> None:
        """Keep a set; an `OSError` is logged, because the process can do without."""
        try:
            write_atomically(self.path, policies.to_json())
        except OSError as error:
            log.warning("policies not kept on disk", path=str(self.path), reason=str(error))
