"""What an agent tells of itself: heartbeats to registries, outcomes to dispatchers."""

import asyncio
import contextlib
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from maniple.clock import Clock
from maniple.errors import ManipleError
from maniple.timings import Reports, Timings
from maniple.topology import OUTCOMES
from maniple_agent.lane_consumers import LaneConsumers
from maniple_agent.scheduler import Scheduler
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import (
    AgentDescription,
    AgentPhase,
    BulkheadLoad,
    Heartbeat,
    LaneEnds,
    LaneOutcomes,
    Load,
    Outcomes,
    RunTimes,
)
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.health import Health
from maniple_runtime.metric_names import HEARTBEATS_SENT
from maniple_runtime.telemetry import Metrics

FREED_PERIOD = 0.02  # at most so often for a bulkhead's sake


@dataclass
class Self:
    """What an agent knows of itself that others want to know.

    `description` is replaced when the agent begins a new life.
    """

    description: AgentDescription
    slots: int
    connections: Callable[[], tuple[str, ...]]
    hungry: Callable[[], tuple[str, ...]]
    unconsumed: Callable[[], tuple[str, ...]]


class Heartbeats:
    """Sends heartbeats, about evenly, and tells when the broker has confirmed one."""

    def __init__(  # noqa: PLR0913 - what a heartbeat tells comes from all over the agent
        self,
        plane: ControlPlane,
        self_: Self,
        work: Scheduler,
        *,
        confirmed: Callable[[float], None],
        health: Health,
        metrics: Metrics,
        clock: Clock,
        timings: Timings | None = None,
    ) -> None:
        """Send over `plane`; `confirmed` hears when a heartbeat was sent that is confirmed."""
        self._plane = plane
        self._self = self_
        self._work = work
        self._confirmed = confirmed
        self._health = health
        self._sent = metrics.counter(HEARTBEATS_SENT)
        self._timings = timings or Timings()
        self._now, self._monotonic = clock.now, clock.monotonic
        self._log = structlog.get_logger("maniple.agent.heartbeat")
        self._sequence = 0
        self._sent_at = math.inf
        self._overdue = False
        self._announce = 1
        self._announced = 0
        self._sending: set[asyncio.Task[None]] = set()
        self._due = asyncio.Event()
        self._phase = AgentPhase.ACTIVE

    def begin_new_life(self, incarnation: Incarnation) -> None:
        """Come back as a new incarnation, because this one was declared failed."""
        self._log.warning(
            "declared failed; rejoining as a new incarnation", incarnation=incarnation
        )
        old = self._self.description
        self._self.description = old.model_copy(
            update={"incarnation": incarnation, "started_at": self._now()}
        )
        self._sequence = 0
        self._overdue = False
        self.announce()

    def enter_phase(self, phase: AgentPhase) -> None:
        """Say from the next heartbeat on that the agent is in this phase."""
        self._phase = phase

    @property
    def patience(self) -> float:
        """Seconds for which a confirm is waited for."""
        return self._timings.heartbeats.confirm

    @property
    def incarnation(self) -> Incarnation:
        """The present life."""
        return self._self.description.incarnation

    def announce(self) -> None:
        """Send the description in full with a heartbeat that is due now."""
        self._announce += 1
        self.hurry()

    def hurry(self) -> None:
        """Send the next heartbeat now."""
        self._due.set()

    async def send_heartbeats(self) -> None:
        """Send until cancelled."""
        try:
            while True:
                times = self._timings.heartbeats
                varies = random.uniform(1 - times.jitter, 1 + times.jitter)
                due_at = self._monotonic() + times.period * varies
                await self.send_heartbeat()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due_at - self._monotonic())):
                        await self._due.wait()
        finally:
            for sending in self._sending:
                sending.cancel()

    async def send_heartbeat(self, wait: float | None = None) -> None:
        """Send one heartbeat and wait for its confirm, which is taken also if it comes later.

        It is waited for `wait` seconds (None: as always). A failure is logged, and the next one is
        the repair.
        """
        wait = self.patience if wait is None else wait
        self._due.clear()
        started = self._monotonic()
        # Whether it is confirmed does not matter: without a broker we send all the same.
        if started - self._sent_at > self._timings.bounds.failed:
            self._log.warning(
                "this process has stood still: no heartbeat was sent",
                seconds=round(started - self._sent_at, 1),
            )
            self._overdue = True
        self._sent_at = started
        sending = asyncio.create_task(self._send(started))
        self._sending.add(sending)
        sending.add_done_callback(self._sent_or_not)
        _, late = await asyncio.wait({sending}, timeout=wait)
        if late:
            self._log.warning("heartbeat not confirmed yet", seconds=wait)

    def _sent_or_not(self, sending: asyncio.Task[None]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled() and (error := sending.exception()):
            self._log.error("heartbeat not sent", exc_info=error)

    async def _send(self, started: float) -> None:
        announce = self._announce
        heartbeat = self._heartbeat(full=announce > self._announced)
        # A confirm that comes later than this can prove nothing any more.
        latest = self._timings.fencing.fenced
        try:
            await self._plane.heartbeat(heartbeat, timeout=latest)
        except ManipleError as error:
            self._log.warning("heartbeat not confirmed", reason=str(error))
            return
        self._sent.inc()
        if heartbeat.description is not None:
            self._announced = max(self._announced, announce)
        self._confirmed(started)

    def _heartbeat(self, *, full: bool) -> Heartbeat:
        self._sequence += 1
        description = self._self.description
        return Heartbeat(
            agent=description.agent,
            incarnation=description.incarnation,
            sequence=self._sequence,
            sent_at=self._now(),
            state=self._phase,
            slots=self._self.slots,
            in_flight=self._work.slots.taken,
            held=sum(1 for _ in self._work.waiting),
            last_delivery_at=self._work.ingress.last_delivery_at,
            hungry=self._self.hungry(),
            unconsumed=self._self.unconsumed(),
            loop_lag=self._health.loop_lag,
            connections=self._self.connections(),
            overdue=self._overdue,
            digest=description.digest,
            description=description if full else None,
        )


class OutcomeReports:
    """Tells dispatchers what ran and how long, and fits the agent's own prefetch to it."""

    def __init__(  # noqa: PLR0913 - as above
        self,
        plane: ControlPlane,
        self_: Self,
        work: Scheduler,
        *,
        lanes: LaneConsumers,
        clock: Clock,
        times: Reports,
    ) -> None:
        """Send over `plane`."""
        self._period = times.period
        self._confirm = times.confirm
        self._plane = plane
        self._self = self_
        self._work = work
        self._lanes = lanes
        self._now, self._monotonic = clock.now, clock.monotonic
        self._sequence = 0
        self._had_load = False
        self._log = structlog.get_logger("maniple.agent.outcomes")

    async def send_reports(self) -> None:
        """Report until cancelled; an idle agent is silent."""
        adapted = self._monotonic()
        while True:
            await self._pause()
            await self.send_report()
            if self._monotonic() - adapted >= self._period:
                adapted = self._monotonic()
                self._lanes.adapt()

    async def _pause(self) -> None:
        """Wait for the next report: others may wait for the room that a bulkhead has again."""
        freed = self._work.ingress.rooms.freed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._period):
                await freed.wait()
        if freed.is_set():
            await asyncio.sleep(FREED_PERIOD)
            freed.clear()

    async def send_report(self) -> None:
        """Send one report if there is anything to tell."""
        lanes = tuple(self._finished())
        loads, bulkheads = self._loads(), self._bulkheads()
        if not (lanes or loads or bulkheads or self._had_load):
            return
        self._had_load = True  # until the broker has confirmed that there is none any more
        self._sequence += 1
        report = Outcomes(
            agent=self._self.description.agent,
            incarnation=self._self.description.incarnation,
            sequence=self._sequence,
            sent_at=self._now(),
            lanes=lanes,
            loads=loads,
            bulkheads=bulkheads,
        )
        try:
            await self._plane.publish(OUTCOMES, "", report, timeout=self._confirm)
        except ManipleError as error:
            self._log.debug("report not confirmed", reason=str(error))
        else:
            self._had_load = bool(loads or bulkheads)

    def _finished(self) -> list[LaneOutcomes]:
        reports = []
        for lane, measure in self._work.measures.items():
            runs, mean, p99, finished = measure.make_report()
            succeeded, failed, failing = measure.ends()
            if runs or failed:
                times = RunTimes(count=runs, mean=mean, p99=p99)
                ends = LaneEnds(succeeded=succeeded, failed=failed, failing=failing)
                reports.append(LaneOutcomes(lane=lane, finished=finished, runs=times, ends=ends))
        return reports

    def _loads(self) -> tuple[Load, ...]:
        running = Counter((job.envelope.lane, job.envelope.tenant) for job in self._work.running)
        held = Counter((job.envelope.lane, job.envelope.tenant) for job in self._work.waiting)
        return tuple(
            Load(lane=lane, tenant=tenant, held=held[lane, tenant], running=running[lane, tenant])
            for lane, tenant in sorted({*running, *held})
        )

    def _bulkheads(self) -> tuple[BulkheadLoad, ...]:
        """Tell of every bulkhead that has tasks here, or had since the last report."""
        here, ended = self._work.ingress.rooms.here(), self._work.ingress.rooms.take_ended()
        return tuple(
            BulkheadLoad(key=key, here=here[key], ended=ended[key])
            for key in sorted({*here, *ended})
        )
