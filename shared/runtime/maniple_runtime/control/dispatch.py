"""Incoming messages of the control plane: an error in one stops no other."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from structlog.typing import FilteringBoundLogger

from maniple.loops import cancel, left_alone
from maniple_runtime.control.amqp_messages import IncomingMessage, Receiver
from maniple_runtime.control.messages import ControlMessage
from maniple_runtime.metric_names import CONTROL_DROPPED
from maniple_runtime.telemetry import Metrics

M = TypeVar("M", bound=ControlMessage)
Handler = Callable[[M], Awaitable[None] | None]


class ControlDispatch:
    """Decodes messages and runs their handlers; logs and counts in `metrics` what fails."""

    def __init__(self, log: FilteringBoundLogger, metrics: Metrics) -> None:
        self._metrics = metrics
        self._log = log
        self._running: set[asyncio.Task[None]] = set()

    def receiver(self, models: tuple[type[M], ...], handler: Handler[M]) -> Receiver:
        """Return a callback that passes messages of these types to `handler`, ignoring others."""
        known = {model.TYPE: model for model in models}

        async def receive(arrival: IncomingMessage) -> None:
            kind = known.get(arrival.type or "")
            if kind is None:
                return
            try:
                message = kind.from_json(arrival.body)
            except ValueError as error:
                self._metrics.counter(CONTROL_DROPPED, "undecodable").inc()
                self._log.warning("undecodable message", type=kind.TYPE, reason=str(error))
                return
            await self._guarded(handler, message)

        return receive

    async def owned(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end, also when the caller is cancelled."""
        # aiormq cancels what runs on a channel that it loses: a change half applied.
        task = left_alone(asyncio.create_task(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def finish_handlers(self, timeout: float) -> None:
        """Wait for running handlers for `timeout` seconds, then cancel them."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout)
        await cancel(self._running)

    async def _guarded(self, handler: Handler[M], message: M) -> None:
        try:
            outcome = handler(message)
        except Exception:  # noqa: BLE001 - a handler's error never stops the consumer
            self._report(message.TYPE)
            return
        if outcome is not None:
            await self.owned(self._finish(outcome, message.TYPE))

    async def _finish(self, outcome: Awaitable[None], kind: str) -> None:
        try:
            await outcome
        except Exception:  # noqa: BLE001 - the same
            self._report(kind)

    def _report(self, kind: str) -> None:
        self._metrics.counter(CONTROL_DROPPED, "handler").inc()
        self._log.exception("handler failed", type=kind)
