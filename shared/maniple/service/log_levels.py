"""Log levels that operators change while everything runs.

They are kept in Consul at `<prefix>/log-levels/<target>`, where a target is an instance, a service
or `all`; the first of these that there is counts, and without one the process's own setting.
"""

import asyncio
from collections.abc import Mapping
from typing import get_args

from structlog.typing import FilteringBoundLogger

from maniple.service.consul import Consul, ConsulRefused, ConsulUnavailable
from maniple.service.settings import LevelName, ServiceSettings
from maniple.service.telemetry import set_level

FOLDER = "log-levels"
ALL = "all"
PERIOD = 3.0
LEVELS: tuple[str, ...] = get_args(LevelName)


def key_of(prefix: str, target: str) -> str:
    """Return where the level of a target is kept."""
    return f"{prefix}/{FOLDER}/{target}"


def level_for(settings: ServiceSettings, levels: Mapping[str, str]) -> str:
    """Return the level of a process by what is set for targets; what is no level is passed over."""
    for target in (settings.instance, settings.service, ALL):
        if levels.get(target) in LEVELS:
            return levels[target]
    return settings.log_level


class LogLevels:
    """Follows the level of this process; without Consul it stays as it is."""

    def __init__(
        self, consul: Consul, settings: ServiceSettings, log: FilteringBoundLogger
    ) -> None:
        """Begin with the level of `settings`."""
        self._consul = consul
        self._settings = settings
        self._log = log
        self._level: str = settings.log_level

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self._look()
            except (ConsulUnavailable, ConsulRefused) as error:
                self._log.debug("log level not looked up", reason=str(error))

    async def _look(self) -> None:
        prefix = key_of(self._settings.consul_prefix, "")
        _, entries = await self._consul.kv_list(prefix)
        levels = {e.key.removeprefix(prefix): e.value.decode("ascii", "replace") for e in entries}
        level = level_for(self._settings, levels)
        if level != self._level:
            before, self._level = self._level, level
            set_level(level)
            self._log.warning("log level changed", level=level, before=before)
