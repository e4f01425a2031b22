"""Tasks that are to wait: for how long, and what becomes of one that finds no room for that."""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from maniple.clock import Clock
from maniple.errors import ManipleError, PublishRefused
from maniple.messages import Envelope, Result, Waiting
from maniple_dispatcher.egress.delay import DelayPublisher
from maniple_dispatcher.pipeline.verdicts import (
    Wait,
    is_committed,
    overloaded,
    rest_of,
    shorter,
    wait,
)
from maniple_dispatcher.tracing import DispatchTracing
from maniple_runtime.metric_names import TASKS_DELAYED
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.telemetry import Metrics

RETRY_AFTER = 5.0
KEPT_BACK = 0.25  # seconds after which room is looked for again, for what is kept back


class TaskEndings(Protocol):
    """How tasks end that go no further."""

    def ends(
        self, envelope: Envelope, source: Settlement, now: datetime, *, waiting: str = ""
    ) -> bool:
        """End a task that is cancelled or whose time is over; tell whether that was so."""
        ...

    def is_over(self, envelope: Envelope, now: datetime) -> bool:
        """Tell whether a task's time is over."""
        ...

    def end_task(self, result: Result, envelope: Envelope, source: Settlement) -> None:
        """Publish the terminal result of a task."""
        ...


class WaitingTasks:
    """Has tasks wait in the broker, and settles what they came in when that is confirmed.

    One that finds no room there ends, unless it was promised that it does not; the source of one
    that is `patient` is kept instead, until there is room.
    """

    def __init__(  # noqa: PLR0913 - what decides, and whom it tells
        self,
        delays: DelayPublisher,
        endings: TaskEndings,
        metrics: Metrics,
        clock: Clock,
        *,
        traces: DispatchTracing,
        answered: Callable[[float], None],
    ) -> None:
        """Publish by `delays`; `answered` is told when something was sent that was confirmed."""
        self._delays = delays
        self._endings = endings
        self._metrics = metrics
        self._clock, self._monotonic = clock.now, clock.monotonic
        self._traces = traces
        self._answered = answered
        self._kept_back: set[asyncio.TimerHandle] = set()

    def begin_wait(
        self,
        envelope: Envelope,
        source: Settlement,
        why: Waiting,
        *,
        insist: bool = False,
        least: int = 0,
    ) -> None:
        """Have a task wait that is not let through, unless it ends by now; `least` as in `wait`."""
        now = self._clock()
        # One that came again is looked up before it expires: when it comes back.
        looked_up = envelope.again and self._endings.is_over(envelope, now)
        if not looked_up and self._endings.ends(envelope, source, now, waiting=why):
            return
        self._metrics.counter(TASKS_DELAYED, why.value).inc()
        longer = random.random() < 0.5  # noqa: PLR2004 - one of the two, equally often
        # What nobody has decided does not end for want of room either.
        insist = insist or why is Waiting.UNDECIDED
        waiting = wait(envelope, now, why, longer=longer, least=least)
        self._delay(waiting, envelope, source, why, insist=insist)

    def wait_until_due(
        self,
        envelope: Envelope,
        source: Settlement,
        why: Waiting | None = None,
        *,
        insist: bool = False,
    ) -> None:
        """Have a task wait for another round that is not due yet; as `LanePublisher.wait_on`."""
        self._metrics.counter(TASKS_DELAYED, Waiting.NOT_DUE.value).inc()
        rest = rest_of(envelope, self._clock(), why)
        self._delay(rest, envelope, source, Waiting.NOT_DUE, insist=insist)

    async def drain_waits(self) -> None:
        """Return when all is confirmed but what is kept back, which is still in its queue."""
        await self._delays.drain_delays()
        while self._kept_back:
            self._kept_back.pop().cancel()

    def _delay(
        self,
        waiting: Wait,
        envelope: Envelope,
        source: Settlement,
        why: Waiting,
        *,
        insist: bool = False,
    ) -> None:
        since = self._monotonic()

        def delayed(error: ManipleError | None) -> None:
            self._answered(since)
            if isinstance(error, PublishRefused) and source.patient:
                self._keep_back(waiting, envelope, source, why)
            elif isinstance(error, PublishRefused):
                result = overloaded(envelope, self._clock(), RETRY_AFTER)
                self._endings.end_task(result, envelope, source)
            else:
                self._traces.delayed(envelope, why)
                source.settle(error)

        insist = not source.patient and (insist or is_committed(envelope))
        self._delays.delay_task(waiting, delayed, insist=insist)

    def _keep_back(
        self, waiting: Wait, envelope: Envelope, source: Settlement, why: Waiting
    ) -> None:
        """Look in a moment for room in a shorter tier, the source being unsettled until then."""

        def look_again() -> None:
            self._kept_back.discard(timer)
            if not self._endings.ends(envelope, source, self._clock(), waiting=why):
                tier = shorter(waiting.tier) or waiting.tier
                self._delay(Wait(tier, waiting.envelope), envelope, source, why)

        moment = KEPT_BACK * random.uniform(0.5, 1.5)
        timer = asyncio.get_running_loop().call_later(moment, look_again)
        self._kept_back.add(timer)
