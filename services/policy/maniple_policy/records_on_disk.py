"""The last good records of policies on disk, with which a service starts without Consul."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from maniple_policy.domain.records import Stored
from maniple_runtime.policy_cache import read_json, write_atomically
from maniple_runtime.telemetry import get_logger

log = get_logger("maniple.policy")


class RecordsOnDisk:
    """One file of records, written as a whole and by one after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self.kept: dict[str, Stored] = {}
        """What is there, by `kind/name`."""

    def load_records(self) -> dict[str, Stored]:
        """Return the records by `kind/name`; a wrong one is logged and left out."""
        records = {}
        for value in read_json(self._path) or ():
            try:
                record = Stored.model_validate(value)
            except ValueError as error:
                log.warning("record on disk is wrong", reason=str(error))
            else:
                records[record.key] = record
        self.kept = records
        return records

    async def keep_latest(self, latest: Callable[[], dict[str, Stored]]) -> None:
        """Write what is `latest` when it is this call's turn, unless that is there already."""
        async with self._lock:
            records = latest()
            if records is not self.kept:
                await asyncio.to_thread(self._write, records)
                self.kept = records

    def _write(self, records: Mapping[str, Stored]) -> None:
        try:
            write_atomically(self._path, [r.model_dump(mode="json") for r in records.values()])
        except OSError as error:
            log.warning("policies not kept on disk", path=str(self._path), reason=str(error))
