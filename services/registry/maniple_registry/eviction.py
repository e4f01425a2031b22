"""Acting on a failed agent: its connections are closed, its entry in the catalog is taken out.

Both may be done twice, and by any replica.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from structlog.typing import FilteringBoundLogger

from maniple.errors import ManipleError
from maniple.service.consul import Consul
from maniple_registry.domain.membership import AgentRecord
from maniple_registry.errors import ManagementUnavailable
from maniple_registry.management import Management

Spawn = Callable[[Coroutine[Any, Any, None], str], object]


class Evictor:
    """Evicts in the background; without `management` connections end by AMQP heartbeats only."""

    def __init__(
        self,
        consul: Consul,
        management: Management | None,
        *,
        spawn: Spawn,
        log: FilteringBoundLogger,
    ) -> None:
        self._consul = consul
        self._management = management
        self._spawn = spawn
        self._log = log

    def evict(self, record: AgentRecord, *, replaced: bool) -> None:
        """Evict one incarnation; the catalog's entry of a `replaced` one is its successor's."""
        self._spawn(self._close(record), f"evict {record.agent}")
        if not replaced:
            self._spawn(self._deregister(record), f"deregister {record.agent}")

    async def _close(self, record: AgentRecord) -> None:
        names = record.heartbeat.connections
        if self._management is None or not names:
            return
        try:
            closed = await self._management.close_connections(names)
        except ManagementUnavailable as error:
            self._log.warning("connections not closed", agent=record.agent, reason=str(error))
        except Exception:  # noqa: BLE001 - one eviction must not end the registry
            self._log.exception("connections not closed", agent=record.agent)
        else:
            self._log.info("connections closed", agent=record.agent, count=closed)

    async def _deregister(self, record: AgentRecord) -> None:
        try:
            await self._consul.deregister_service(record.agent)
        except ManipleError as error:
            self._log.warning("not taken out of Consul", agent=record.agent, reason=str(error))
        except Exception:  # noqa: BLE001 - the same
            self._log.exception("not taken out of Consul", agent=record.agent)
