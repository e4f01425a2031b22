"""Looking after tasks that wait or run for long."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from maniple.messages import TaskRunning
from maniple_agent.fencing import Fence
from maniple_agent.publisher import AgentPublisher
from maniple_agent.scheduler import Scheduler
from maniple_runtime.health import Health
from maniple_runtime.metric_names import HELD, IN_FLIGHT
from maniple_runtime.telemetry import Metrics

RUNNING_AFTER = timedelta(seconds=1)


class TaskWatch:
    """Looks every `period` seconds at what the agent has."""

    def __init__(
        self, work: Scheduler, agent_publisher: AgentPublisher, agent: str, *, period: float
    ) -> None:
        """Watch `work`; what has been running for a second is told by `agent_publisher`."""
        self._period = period
        self._work = work
        self._agent_publisher = agent_publisher
        self._agent = agent

    async def watch_tasks(
        self, fence: Fence, metrics: Metrics, health: Health, clock: Callable[[], datetime]
    ) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(self._period)
            fence.enforce()
            self._agent_publisher.redirect_overdue(taking=fence.publishes)
            self._work.dissolve()
            self._work.slots_free()  # what waited for results to be confirmed hears of it here
            if not fence.fenced:
                self.announce_running(clock())
            self.measure_load(metrics)
            self._work.slots.show_stuck(health)

    def announce_running(self, now: datetime) -> None:
        """Record the attempts that have been running for a second, each once."""
        since = now - RUNNING_AFTER
        for job in self._work.running:
            if job.announced or job.started_at is None or job.started_at > since:
                continue
            job.announced = True
            event = TaskRunning(
                id=job.envelope.id,
                capability=job.envelope.capability,
                attempt=job.envelope.attempt,
                agent=self._agent,
                started_at=job.started_at,
                tenant=job.envelope.tenant,
                traceparent=job.envelope.traceparent,
            )
            self._agent_publisher.running(event)

    def measure_load(self, metrics: Metrics) -> None:
        """Set the gauges of what runs and what waits."""
        running = Counter(job.definition.executor for job in self._work.running)
        for kind, _ in self._work.slots:
            metrics.gauge(IN_FLIGHT, kind.value).set(running[kind])
        metrics.gauge(HELD).set(sum(1 for _ in self._work.waiting))
