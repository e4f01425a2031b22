"""What an agent tells of itself: heartbeats to registries, outcomes to dispatchers."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

import structlog

from maniple.control import (
    AgentDescription,
    AgentPhase,
    Heartbeat,
    Incarnation,
    LaneOutcomes,
    Load,
    Outcomes,
    RunTimes,
)
from maniple.errors import ManipleError
from maniple.service.broker import ControlPlane
from maniple.service.health import Health
from maniple.service.names import HEARTBEATS_SENT
from maniple.service.telemetry import Metrics
from maniple.topology import OUTCOMES
from maniple_agent.lanes import Lanes
from maniple_agent.work import Work

PERIOD = 3.0
JITTER = 0.1
CONFIRMED_WITHIN = 6.0
OUTCOMES_PERIOD = 0.5
TIMEOUT = 2.5


@dataclass
class Self:
    """What an agent knows of itself that others want to know.

    `description` is replaced when the agent begins a new life.
    """

    description: AgentDescription
    slots: int
    connections: Callable[[], tuple[str, ...]]


class Heartbeats:
    """Sends a heartbeat every 3 s ± 10 %, and knows when the broker confirmed the last one."""

    def __init__(  # noqa: PLR0913 - what a heartbeat tells comes from all over the agent
        self,
        plane: ControlPlane,
        self_: Self,
        work: Work,
        *,
        health: Health,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        """Send over `plane`."""
        self._plane = plane
        self._self = self_
        self._work = work
        self._health = health
        self._sent = metrics.counter(HEARTBEATS_SENT)
        self._clock = clock
        self._log = structlog.get_logger("maniple.agent.heartbeat")
        self._sequence = 0
        self._announce = True
        self._due = asyncio.Event()
        self._confirmed_at = float("-inf")
        self.phase = AgentPhase.ACTIVE

    @property
    def confirmed(self) -> bool:
        """Whether the broker confirmed a heartbeat that was sent within the last 6 s."""
        return monotonic() - self._confirmed_at <= CONFIRMED_WITHIN

    def begin_new_life(self, incarnation: Incarnation) -> None:
        """Come back as a new incarnation, because this one was declared failed."""
        self._log.warning("declared failed; coming back", incarnation=incarnation)
        old = self._self.description
        self._self.description = old.model_copy(
            update={"incarnation": incarnation, "started_at": self._clock()}
        )
        self._sequence = 0
        self.announce()

    @property
    def incarnation(self) -> Incarnation:
        """The present life."""
        return self._self.description.incarnation

    def announce(self) -> None:
        """Send the description in full with a heartbeat that is due now."""
        self._announce = True
        self._due.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self.send()
            seconds = PERIOD * random.uniform(1 - JITTER, 1 + JITTER)
            try:
                await asyncio.wait_for(self._due.wait(), seconds)
            except TimeoutError:
                continue

    async def send(self) -> None:
        """Send one heartbeat; a failure is logged, and the next one is the repair."""
        self._due.clear()
        started = monotonic()
        full = self._announce
        try:
            await self._plane.heartbeat(self._heartbeat(full=full), timeout=TIMEOUT)
        except ManipleError as error:
            self._log.warning("heartbeat not confirmed", reason=str(error))
            return
        self._confirmed_at = started
        self._sent.inc()
        if full:
            self._announce = False

    def _heartbeat(self, *, full: bool) -> Heartbeat:
        self._sequence += 1
        description = self._self.description
        return Heartbeat(
            agent=description.agent,
            incarnation=description.incarnation,
            sequence=self._sequence,
            sent_at=self._clock(),
            state=self.phase,
            slots=self._self.slots,
            in_flight=len(self._work.running),
            held=sum(1 for _ in self._work.waiting()),
            last_delivery_at=self._work.last_delivery_at,
            loop_lag=self._health.loop_lag,
            connections=self._self.connections(),
            digest=description.digest,
            description=description if full else None,
        )


class OutcomeReports:
    """Tells dispatchers what ran and how long, and fits the agent's own prefetch to it."""

    def __init__(
        self,
        plane: ControlPlane,
        self_: Self,
        work: Work,
        lanes: Lanes,
        clock: Callable[[], datetime],
    ) -> None:
        """Send over `plane`."""
        self._plane = plane
        self._self = self_
        self._work = work
        self._lanes = lanes
        self._clock = clock
        self._sequence = 0
        self._had_load = False
        self._log = structlog.get_logger("maniple.agent.outcomes")

    async def run(self) -> None:
        """Report until cancelled; an idle agent is silent."""
        while True:
            await asyncio.sleep(OUTCOMES_PERIOD)
            await self.send()
            await self._lanes.adapt(self._work.measures)

    async def send(self) -> None:
        """Send one report if there is anything to tell."""
        lanes = tuple(self._finished())
        loads = self._loads()
        if not lanes and not loads and not self._had_load:
            return
        self._had_load = bool(loads)
        self._sequence += 1
        report = Outcomes(
            agent=self._self.description.agent,
            incarnation=self._self.description.incarnation,
            sequence=self._sequence,
            sent_at=self._clock(),
            lanes=lanes,
            loads=loads,
        )
        try:
            await self._plane.publish(OUTCOMES, "", report, timeout=TIMEOUT)
        except ManipleError as error:
            self._log.debug("report not confirmed", reason=str(error))

    def _finished(self) -> list[LaneOutcomes]:
        reports = []
        for lane, measure in self._work.measures.items():
            runs, mean, p99, finished = measure.report()
            if runs:
                times = RunTimes(count=runs, mean=mean, p99=p99)
                reports.append(LaneOutcomes(lane=lane, finished=finished, runs=times))
        return reports

    def _loads(self) -> tuple[Load, ...]:
        running = Counter((job.envelope.lane, job.envelope.tenant) for job in self._work.running)
        held = Counter((job.envelope.lane, job.envelope.tenant) for job in self._work.waiting())
        return tuple(
            Load(lane=lane, tenant=tenant, held=held[lane, tenant], running=running[lane, tenant])
            for lane, tenant in sorted({*running, *held})
        )
