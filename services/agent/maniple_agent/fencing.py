"""What an agent does when the broker no longer confirms its heartbeats."""

import structlog

from maniple_agent.domain.confirmation import Confirmation, Pace
from maniple_agent.publisher import AgentPublisher
from maniple_agent.scheduler import Scheduler
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.hotpath import HotPath
from maniple_runtime.runtime import Runtime

KEPT_BYTES = 64 * 1024**2
COMPONENT = "fence"


class Fence:
    """Takes an agent out of work when others may take it for dead, and puts it back.

    Fenced, it takes and starts nothing. What runs goes on, and its results are kept by the outlets
    and published when there is a connection again. `enforce` is to be called some times a second;
    what must be exact asks `Confirmation.fenced`.
    """

    def __init__(  # noqa: PLR0913 - it acts on all that takes or holds work
        self,
        runtime: Runtime,
        confirmation: Confirmation,
        work: Scheduler,
        *,
        agent_publisher: AgentPublisher,
        hot: HotPath,
        plane: ControlPlane,
    ) -> None:
        """Begin unfenced; `confirmation` goes by the clock of `runtime`, and has the times."""
        self._runtime = runtime
        self._confirmation = confirmation
        self._work = work
        self._agent_publisher = agent_publisher
        self._hot = hot
        self._plane = plane
        self._monotonic = runtime.clock.monotonic
        self._times = confirmation.timings.fencing
        self._control_pace = Pace(self._times.rebuild)
        self._hot_pace = Pace(self._times.rebuild)
        self._log = structlog.get_logger("maniple.agent.fence")
        self.fenced = False

    @property
    def publishes(self) -> bool:
        """Whether the broker takes what is published, as far as is known."""
        return self._hot.publishes

    def confirm(self, sent_at: float) -> None:
        """Record that the broker has confirmed a heartbeat that was sent at that time."""
        self._confirmation.confirm_heartbeat(sent_at)
        self._runtime.ttl_heartbeat.beat()
        self.enforce()
        self._work.slots_free()  # what came too late for a look may still have kept jobs waiting

    def enforce(self) -> None:
        """Do what the time since the last confirmed heartbeat asks for."""
        now = self._monotonic()
        fenced = self._confirmation.fenced(now)
        if fenced != self.fenced:
            self.fenced = fenced
            self._close(now) if fenced else self._open()
        if fenced:
            self._limit(now)
            self._rebuild(now)

    def _close(self, now: float) -> None:
        # A process that stood still looks fenced to itself: a heartbeat goes first.
        self._control_pace.hold_off(self._times.first_rebuild, now)
        self._hot_pace.hold_off(self._times.first_rebuild, now)
        self._log.warning("fenced: taking nothing new", running=len(self._work.running))
        detail = f"fenced: no heartbeat confirmed for {self._times.fenced:g} s"
        self._runtime.health.set(COMPONENT, ok=False, detail=detail, required=True)
        self._hot.stop_consuming()

    def _open(self) -> None:
        self._log.info("no longer fenced", running=len(self._work.running))
        self._runtime.health.set(COMPONENT, ok=True)
        if not self._work.draining:
            self._hot.resume()
        self._runtime.spawn(self._work.resume(), "fence")

    def _limit(self, now: float) -> None:
        """Stop what may soon run elsewhere, and all if its results cannot be kept."""
        if self._confirmation.exclusive_over(now):
            self._work.stop_exclusive()
        if self._work.running and self._agent_publisher.kept_bytes > KEPT_BYTES:
            self._log.error(
                "too many results to keep; stopping", bytes=self._agent_publisher.kept_bytes
            )
            self._work.stopped.stop_jobs(self._work.running)

    def _rebuild(self, now: float) -> None:
        """Replace connections that claim to stand: one that was cut in silence looks like that."""
        if self._hot.blocked or self._plane.blocked:
            return  # the broker is there, and will go on
        if self._plane.connected and self._control_pace.allows(now):
            self._plane.reconnect()
        if self._confirmation.given_up(now) and self._hot.up and self._hot_pace.allows(now):
            self._hot.reconnect()
