"""Log levels that operators change at run time.

They are kept in Consul at `<prefix>/log-levels/<target>`, where a target is an instance, a service
or `all`; the first of these that is set counts, and without one the process's own setting.

A blocking query on keys that do not exist ends with every write to Consul's store. So one key,
which is no target, always exists.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import get_args

from structlog.typing import FilteringBoundLogger
from tenacity import AsyncRetrying, RetryCallState

from maniple_runtime.backoff import EqualJitter, error_of
from maniple_runtime.consul.client import CREATE_ONLY, Consul, ConsulRefused, ConsulUnavailable
from maniple_runtime.settings import LevelName, ServiceSettings
from maniple_runtime.telemetry import set_level

FOLDER = "log-levels"
ALL = "all"
KEEP = ".keep"  # as no instance is called
WAIT = 60.0  # seconds of a blocking query
PAUSE = 3.0  # at most, between two looks
BACKOFF_CAP = 30.0
LEVELS: tuple[str, ...] = get_args(LevelName)


def key_of(prefix: str, target: str) -> str:
    """Return the key of a target."""
    return f"{prefix}/{FOLDER}/{target}"


def level_for(settings: ServiceSettings, levels: Mapping[str, str]) -> str:
    """Return a process's level from the levels of targets; invalid levels are ignored."""
    for target in (settings.instance, settings.service, ALL):
        if levels.get(target) in LEVELS:
            return levels[target]
    return settings.log_level


class LogLevels:
    """Follows the level of this process; without Consul it stays as it is.

    A blocking query waits for changes. Known weakness: where Consul lets no process write the key
    that always exists, and no level is set, each write to its store ends the query.
    """

    def __init__(
        self, consul: Consul, settings: ServiceSettings, log: FilteringBoundLogger
    ) -> None:
        """Start with the level of `settings`."""
        self._consul = consul
        self._settings = settings
        self._log = log
        self._level: str = settings.log_level
        self._prefix = key_of(settings.consul_prefix, "")
        self._index = 0
        self._may_write = True

    async def follow_level(self) -> None:
        """Follow the level until cancelled."""
        # Whatever fails in a look, the next change is to be seen.
        looking = AsyncRetrying(
            wait=EqualJitter(2 * PAUSE, BACKOFF_CAP), before_sleep=self._begin_anew
        )
        while True:
            async for attempt in looking:
                with attempt:
                    await self._look()
            # Who waits in a query is answered at the same time as all others.
            await asyncio.sleep(random.uniform(0.5, 1.0) * PAUSE)

    def _begin_anew(self, failed: RetryCallState) -> None:
        self._index = 0
        error = error_of(failed)
        if isinstance(error, ConsulUnavailable | ConsulRefused):
            self._log.debug("log level not looked up", reason=str(error))
        else:
            self._log.error("log level not looked up", exc_info=error)

    async def _look(self) -> None:
        """Wait for a change, and apply it."""
        if self._index == 0:
            index, entries = await self._consul.kv_list(self._prefix)
        else:
            index, entries = await self._consul.watch(self._prefix, self._index, WAIT)
        self._index = index if index >= self._index else 0
        levels = {
            e.key.removeprefix(self._prefix): e.value.decode("ascii", "replace") for e in entries
        }
        self._take(level_for(self._settings, levels))
        if not entries and self._may_write:
            await self._write_keep()

    async def _write_keep(self) -> None:
        why = b"gives this folder an index of its own"
        try:
            await self._consul.kv_put(self._prefix + KEEP, why, cas=CREATE_ONLY)
        except ConsulRefused as error:
            self._may_write = False
            self._log.debug("may not write to Consul", key=KEEP, reason=str(error))

    def _take(self, level: str) -> None:
        before = self._level
        if level == before:
            return
        self._level = level
        lower = min(before, level, key=_number)
        # Told while the lower one holds, so that it is seen whichever way it goes.
        set_level(lower)
        louder = {logging.ERROR: self._log.error, logging.CRITICAL: self._log.critical}
        say = louder.get(_number(lower), self._log.warning)
        say("log level changed", before=before, after=level)
        set_level(level)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
