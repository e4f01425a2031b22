"""The link over which the registry hears heartbeats, proves that it hears, and looks at lanes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, suppress

from structlog.typing import FilteringBoundLogger

from maniple.amqp import (
    AmqpConnection,
    Inspector,
    Outgoing,
    Publisher,
    QueueView,
    declare_topology,
)
from maniple.errors import BrokerUnavailable, PublishRefused
from maniple.identifiers import new_id
from maniple.topology import HEARTBEATS, agent_queue, lane_queues, suspect_lane
from maniple_registry.domain.agent_record import LaneView
from maniple_runtime.control.messages import Echo, Heartbeat
from maniple_runtime.metric_names import CONTROL_DROPPED, RECONNECTS
from maniple_runtime.runtime import Runtime

START_TIMEOUT = 5.0
MOST_UNANSWERED = 3  # looks of one turn; each may take seconds
MOST_TURNS = 3  # of patience with an echo, each after the first while others are heard
COMPONENT = "broker.heartbeats"
LINK = "heartbeats"


class HeartbeatConsumer:
    """Reads heartbeats, and tells whether they can be heard.

    Not over FastStream: its pipeline costs several times what a heartbeat may.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._patience = runtime.settings.timings.watching.echo
        self._messages = 0
        self._log: FilteringBoundLogger = runtime.log
        self._expected = ""
        self._echoed = asyncio.Event()
        self._was_up = False
        self._deaf = False
        self.link = AmqpConnection(
            runtime.settings.broker_url,
            name=runtime.connection_name(LINK),
            prepare=declare_topology,
            on_state=self._on_state,
            times=runtime.settings.timings.amqp,
        )
        self._publisher = Publisher(self.link)
        self._inspector = Inspector(self.link)

    @asynccontextmanager
    async def open_link(self) -> AsyncIterator[None]:
        """Hear; raises `BrokerUnavailable`."""
        await self.link.start(START_TIMEOUT)
        try:
            yield
        finally:
            await self.link.close()

    @property
    def deaf(self) -> bool:
        """Our own echo did not come, and nothing has since."""
        return self._deaf

    @deaf.setter
    def deaf(self, deaf: bool) -> None:
        if deaf != self._deaf:
            self._deaf = deaf
            self._report(up=self.link.is_up)

    @property
    def hears(self) -> bool:
        """Whether silence means something."""
        return self.link.is_up and not self._deaf

    async def echo(self) -> bool:
        """Whether what is said where heartbeats are said is heard here.

        What was said before it has then been heard too: it comes through the same queue. It is
        waited for up to three times as long while other messages come, which may be many that came
        before it.
        """
        self._expected = new_id()
        self._echoed.clear()
        message = Outgoing(
            HEARTBEATS.name,
            "",
            Echo().to_json(),
            self._expected,
            Echo.TYPE,
            persistent=False,
            mandatory=False,
        )
        life = self.link.reconnects
        for _ in range(MOST_TURNS):
            heard = self._messages
            echoed = await self._comes(message)
            if self.link.reconnects != life:
                return False  # it came through another queue than what was said before it
            if echoed or self._messages == heard:
                return echoed
        return False

    async def _comes(self, echo: Outgoing) -> bool:
        """Publish an echo, once more if need be, and wait for it or for one before."""
        with suppress(TimeoutError, BrokerUnavailable, PublishRefused):
            async with asyncio.timeout(self._patience):
                await self._publisher.publish(echo)
                await self._echoed.wait()
        return self._echoed.is_set()

    async def inspect_queues(
        self, lanes: Collection[str], addressed: Collection[str] = ()
    ) -> dict[str, LaneView]:
        """Look at the queues of lanes, of their suspects, and at the own ones of agents; by place.

        Those of which the broker will not say are left out, and all others once that are several.
        """
        found: dict[str, LaneView] = {}
        unanswered = 0
        for place, queue, by_consumers in _places(lanes, addressed):
            view = await self._look(queue)
            if view is not None:
                found[place] = LaneView(view.ready, view.consumers, by_consumers)
            elif (unanswered := unanswered + 1) == MOST_UNANSWERED:
                break
        return found

    async def _look(self, queue: str) -> QueueView | None:
        try:
            return await self._inspector.inspect_queue(queue)
        except BrokerUnavailable as error:
            self._log.debug("queue not inspected", queue=queue, reason=str(error))
        except Exception:  # noqa: BLE001 - one queue must not keep us from looking at the others
            self._log.exception("queue not inspected", queue=queue)
        return None

    def on_message(
        self, heard: Callable[[Heartbeat], None], body: bytes, kind: str, message_id: str
    ) -> None:
        """Hand a heartbeat to `heard`, or take notice of our own echo."""
        self._messages += 1
        if self._deaf:
            self.deaf = False
        if kind == Heartbeat.TYPE:
            self._hear(heard, body)
        elif message_id == self._expected:
            self._echoed.set()

    def _hear(self, heard: Callable[[Heartbeat], None], body: bytes) -> None:
        try:
            heartbeat = Heartbeat.from_json(body)
        except ValueError as error:
            self._runtime.metrics.counter(CONTROL_DROPPED, "undecodable").inc()
            self._log.warning("undecodable message", type=Heartbeat.TYPE, reason=str(error))
            return
        try:
            heard(heartbeat)
        except Exception:  # noqa: BLE001 - one heartbeat must not stop the others
            self._runtime.metrics.counter(CONTROL_DROPPED, "handler").inc()
            self._log.exception("handler failed", type=Heartbeat.TYPE)

    def _on_state(self, up: bool) -> None:  # noqa: FBT001 - a callback's one argument
        if up:
            self._deaf = False
            if self._was_up:
                self._runtime.metrics.counter(RECONNECTS, LINK).inc()
            self._was_up = True
        self._report(up=up)

    def _report(self, *, up: bool) -> None:
        detail = "what is said to ourselves does not arrive" if self._deaf else ""
        detail = detail if up else "not connected"
        self._runtime.health.set(COMPONENT, ok=up and not self._deaf, detail=detail, required=True)


def _places(lanes: Collection[str], addressed: Collection[str]) -> Iterator[tuple[str, str, bool]]:
    """Iterate over places, each with its queue, and whether only its consumers matter."""
    for lane in lanes:
        plain, suspects = lane_queues(lane)
        yield lane, plain.name, False
        yield suspect_lane(lane), suspects.name, True
    for agent in addressed:
        own = agent_queue(agent).name
        yield own, own, True
