"""Saying that agents keep other times than this registry relies on."""

import asyncio
from collections import Counter

from structlog.typing import FilteringBoundLogger

from maniple_registry.domain.agents import Agents
from maniple_registry.domain.timing_mismatch import Risk
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.health import Health
from maniple_runtime.metric_names import AGENTS_MISTIMED
from maniple_runtime.runtime import Runtime
from maniple_runtime.telemetry import Metrics

PERIOD = 1.0
SHOWN = 3
COMPONENT = "timings"


class TimingWatch:
    """Shows, in log, health and a metric, whose times do not fit; nobody is treated otherwise."""

    def __init__(self, fleet: Agents, runtime: Runtime) -> None:
        self._fleet = fleet
        self._health: Health = runtime.health
        self._metrics: Metrics = runtime.metrics
        self._log: FilteringBoundLogger = runtime.log
        self._known: dict[AgentId, str] = {}

    async def watch_timings(self) -> None:
        """Look until cancelled."""
        while True:
            self.show_mismatches()
            await asyncio.sleep(PERIOD)

    def show_mismatches(self) -> None:
        """Show how it is now; what is new is logged."""
        found = self._fleet.misfits()
        known = {record.agent: self._fleet.explained(record) for record, _ in found}
        for agent in known.keys() - self._known.keys():
            self._log.warning("an agent's timings differ from ours", agent=agent, what=known[agent])
        for agent in self._known.keys() - known.keys():
            self._log.info("an agent's timings do not differ from ours any more", agent=agent)
        self._known = known
        counts = Counter(risk for _, risk in found)
        for risk in Risk:
            self._metrics.gauge(AGENTS_MISTIMED, risk).set(counts[risk])
        self._health.set(COMPONENT, ok=not known, detail=_detail(known))


def _detail(known: dict[AgentId, str]) -> str:
    named = [f"{agent} {known[agent]}" for agent in sorted(known)[:SHOWN]]
    more = len(known) - SHOWN
    return "; ".join([*named, *([f"and {more} more"] if more > 0 else [])])
