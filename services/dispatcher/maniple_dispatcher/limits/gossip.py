"""How dispatchers talk to each other on `maniple.outcomes`, and hear what agents report there."""

import asyncio
import contextlib
from collections.abc import Iterable

import msgspec
import structlog

from maniple.amqp import Outgoing
from maniple.errors import BrokerUnavailable, ManipleError, PublishRefused
from maniple.identifiers import new_id
from maniple.topology import OUTCOMES
from maniple_dispatcher.limits.breaker import Breaker, BreakerState
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.messages import REPORT_TYPE, DispatcherReport
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.events import BreakerChanged
from maniple_runtime.hotpath import HotPath
from maniple_runtime.metric_names import BREAKER_OPEN
from maniple_runtime.runtime import Runtime
from maniple_runtime.telemetry import Metrics

COLLECT = 0.002  # seconds in which requests and answers gather
SHOW = 0.5
TIMEOUT = 2.0


class Gossip:
    """Tells the other dispatchers what is due, and hands the coordinator what they say."""

    def __init__(
        self,
        hot: HotPath,
        coordinator: Coordinator,
        plane: ControlPlane,
        runtime: Runtime,
        due: asyncio.Event,
    ) -> None:
        """Tell over the connections of the hot path, which must not have been started yet.

        The coordinator sets `due` when it has something to tell.
        """
        self._hot = hot
        self._plane = plane
        self._runtime = runtime
        self._monotonic = runtime.clock.monotonic
        self._times = runtime.settings.timings.peers
        self._coordinator = coordinator
        self._due = due
        self._looked = self._monotonic()
        self._was_up = True
        self._life = coordinator.life
        self._decoder = msgspec.json.Decoder(DispatcherReport)
        self._log = structlog.get_logger("maniple.dispatcher.gossip")

    def on_report(self, body: bytes, message_type: str, _message_id: str) -> None:
        """Pass on what another dispatcher says; other messages are ignored."""
        if message_type != REPORT_TYPE:
            return
        try:
            report = self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            self._log.warning("a dispatcher's report cannot be read", reason=str(error))
            return
        now = self._monotonic()
        self._notice(now)
        self._coordinator.on_report(report, now)

    async def exchange_reports(self) -> None:
        """Look and tell until cancelled.

        What a look has changed is told at once. Where the broker takes its time to confirm that,
        looking goes on.
        """
        self._looked = self._monotonic()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._look_and_tell())
            both.create_task(self._look_meanwhile())

    async def _look_and_tell(self) -> None:
        told = self._monotonic()
        while True:
            await self._pause()
            now = self._monotonic()
            self._look(now, self._times.look)
            if self._was_up and (self._coordinator.due or now - told >= self._times.presence):
                told = now
                await self._tell()

    async def _look_meanwhile(self) -> None:
        while True:
            await asyncio.sleep(self._times.look)
            self._look(self._monotonic(), 2 * self._times.look)

    def _look(self, now: float, period: float) -> None:
        """Look unless somebody has within that time."""
        self._notice(now)
        if now - self._looked >= period:
            self._looked = now
            self._coordinator.advance_time(now)

    def _notice(self, now: float) -> None:
        """Begin anew if we stood still, or if a connection is back."""
        is_up, was_up, self._was_up = self._hot.up, self._was_up, self._hot.up
        self._coordinator.notice(now)
        if is_up and not was_up:
            self._coordinator.rejoin(now)
        if self._coordinator.life != self._life:
            self._life = self._coordinator.life
            self._log.info("joining the other dispatchers anew", life=self._life)

    async def _pause(self) -> None:
        """Wait until something is due, or until it is time to look."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._times.look):
                await self._due.wait()
        self._due.clear()
        await asyncio.sleep(COLLECT)

    async def announce_breakers(self) -> None:
        """Tell everybody of breakers of ours that open and close."""
        while True:
            await asyncio.sleep(self._times.look)
            for change in self._coordinator.owned.changes():
                self._log.warning(
                    "circuit breaker changed", lane=change.lane, state=change.state.value
                )
                event = BreakerChanged(
                    at=self._runtime.clock.now(),
                    lane=change.lane,
                    state=change.state.value,
                    epoch=change.epoch,
                )
                try:
                    await self._plane.emit(event)
                except (BrokerUnavailable, PublishRefused) as error:
                    self._log.warning("not announced", event_id=event.id, reason=str(error))

    async def show_breakers(self) -> None:
        """Show the breakers that are known here, ours and others', and no more those that went."""
        while True:
            show(self._runtime.metrics, self._coordinator.owned.breakers())
            await asyncio.sleep(SHOW)

    async def leave(self) -> None:
        """Tell the others that we leave: what is ours has another owner at once."""
        self._coordinator.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT):
                while self._coordinator.due:
                    await self._tell()

    async def _tell(self) -> None:
        report = self._coordinator.make_report(self._monotonic())
        message = Outgoing(
            OUTCOMES.name,
            "",
            msgspec.json.encode(report),
            new_id(),
            REPORT_TYPE,
            persistent=False,
            mandatory=False,
        )
        try:
            await self._hot.publisher.publish(message, timeout=TIMEOUT)
        except ManipleError as error:
            self._log.debug("report not confirmed", reason=str(error))


def show(metrics: Metrics, breakers: Iterable[tuple[str, Breaker]]) -> None:
    """Show these breakers and no others; the open ones first, while lanes have labels."""
    metrics.forget_series(BREAKER_OPEN)
    states = [(lane, breaker.state is not BreakerState.CLOSED) for lane, breaker in breakers]
    for lane, is_open in sorted(states, key=lambda one: not one[1]):
        # Many may share one label: that counts them.
        metrics.gauge(BREAKER_OPEN, lane).inc(is_open)
