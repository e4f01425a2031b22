"""The life of a process: start, run, drain, stop, in this order.

Start: HTTP pages, then what `build` makes (repeatedly while RabbitMQ is unavailable or refuses),
then the entry in Consul. Stop, on SIGTERM, SIGINT or SIGHUP: report draining, leave Consul, so that
no work is sent here any more, leave `build` within `drain_timeout` + 5 s, then the pages. A second
SIGTERM or SIGINT ends the process at once. SIGHUP does not: it comes along with them, and twice
where a terminal is closed; a process that is started with it ignored (`nohup`) goes on.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Generic, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from maniple.clock import SYSTEM_CLOCK
from maniple.errors import BrokerRefused, BrokerUnavailable, ConfigurationError
from maniple.forks import keep_signals_from_children
from maniple_runtime.backoff import EqualJitter, error_of
from maniple_runtime.consul.client import Consul, ConsulUnavailable
from maniple_runtime.consul.registration import Registration
from maniple_runtime.event_loop import new_event_loop
from maniple_runtime.garbage import frozen_once_built, tune_collector
from maniple_runtime.health import Health, HealthServer
from maniple_runtime.log_levels import LogLevels
from maniple_runtime.loop_lag import measure_lag
from maniple_runtime.runtime import Runtime
from maniple_runtime.secret_variables import leave_no_secrets
from maniple_runtime.settings import WRONG_USAGE, ServiceSettings
from maniple_runtime.telemetry import configure_logging, flush_logs, get_logger, process_metrics
from maniple_runtime.telemetry.tracing import make_tracer

FAREWELL = 0.5  # seconds that Consul has before the draining begins
SPANS_TIMEOUT = 2.0  # seconds for the last spans to be exported
DRAIN_MARGIN = 5.0  # seconds beyond `drain_timeout` before the way out is cut short
CRASHED = 1
_AWAY = (BrokerUnavailable, ConsulUnavailable, OSError, TimeoutError)

S = TypeVar("S", bound=ServiceSettings)
Build = Callable[[Runtime[S]], AbstractAsyncContextManager[None]]


class _Process(Generic[S]):
    """One run of a process; `started` is set once everything is built."""

    def __init__(self, settings: S, build: Build[S], stopping: asyncio.Event) -> None:
        self.settings = settings
        self.build = build
        self.stopping = stopping
        self.started = asyncio.Event()
        self.leave = asyncio.Event()
        self.clock = SYSTEM_CLOCK
        self.health = Health(
            settings.service,
            settings.instance,
            timings=settings.timings.shown(),
            clock=self.clock.monotonic,
        )
        self.health.versions["maniple"] = version("maniple")
        self.metrics = process_metrics()
        self.tracer = make_tracer(settings, self.metrics, self.clock)
        self.log = get_logger("maniple.runner")
        self.runtime: Runtime[S] | None = None

    async def run(self) -> int:
        """Return the exit code."""
        settings = self.settings
        consul = Consul(settings.consul_url, settings.consul_token, settings.consul_tls)
        levels = LogLevels(consul, self.settings, self.log)
        besides = (
            asyncio.create_task(measure_lag(self.health, self.metrics), name="loop-lag"),
            asyncio.create_task(levels.follow_level(), name="log-levels"),
        )
        try:
            async with HealthServer(self.settings, self.health, self.metrics.registry) as server:
                runtime = self.runtime = Runtime(
                    settings=self.settings,
                    health=self.health,
                    metrics=self.metrics,
                    consul=consul,
                    log=get_logger(f"maniple.{self.settings.service}"),
                    stopping=self.stopping,
                    tracer=self.tracer,
                    clock=self.clock,
                    http_url=server.url,
                )
                self.log.info("starting", http=server.url, environment=self.settings.environment)
                return await self._run(runtime, server.port)
        finally:
            for task in besides:
                task.cancel()
            await asyncio.gather(*besides, return_exceptions=True)
            consul.close()
            await asyncio.to_thread(self.tracer.export_remaining, SPANS_TIMEOUT)
            self.log.info("stopped")

    async def _run(self, runtime: Runtime[S], port: int) -> int:
        body = asyncio.create_task(self._body(runtime), name="body")
        stop = asyncio.create_task(self.stopping.wait(), name="stopping")
        start = asyncio.create_task(self.started.wait(), name="started")
        presence = Registration(
            runtime.consul,
            self.settings,
            self.health,
            port=port,
            life=runtime.life,
            ttl_heartbeat=runtime.ttl_heartbeat,
        )
        await asyncio.wait({body, stop, start}, return_when=asyncio.FIRST_COMPLETED)
        present = self.started.is_set() and not body.done()
        if present:
            presence.register()
            self.log.info("started")
            await asyncio.wait({body, stop}, return_when=asyncio.FIRST_COMPLETED)
        self.health.mark_draining()
        self.log.info("draining")
        farewell = asyncio.create_task(_leave(runtime, presence) if present else asyncio.sleep(0))
        # The catalog is left first; a Consul that does not answer must not let new work come in.
        await asyncio.wait({farewell}, timeout=FAREWELL)
        code = await self._end(runtime, body)
        for task in (stop, start):
            task.cancel()
        await asyncio.gather(stop, start, farewell, return_exceptions=True)
        return code

    async def _body(self, runtime: Runtime[S]) -> None:
        """Enter, hold and leave `build` in one task, as its task groups and timeouts require."""

        async def clear_away(failed: RetryCallState) -> None:
            self._tell_why_not(error_of(failed))
            await runtime.cancel_spawned()

        starting = AsyncRetrying(
            retry=retry_if_exception(self._is_to_be_waited_for),
            wait=EqualJitter(),
            after=clear_away,
            stop=lambda _: self.leave.is_set(),  # a library has swallowed our cancellation
            retry_error_callback=lambda _: None,
        )
        async for attempt in starting:
            with attempt:
                async with self.build(runtime):
                    self.health.set("start", ok=True)
                    self.health.mark_started()
                    self.started.set()
                    await self.leave.wait()

    def _is_to_be_waited_for(self, error: BaseException) -> bool:
        """Tell whether a start has failed because a server is unavailable."""
        return isinstance(error, Exception) and not self.started.is_set() and _is_away(error)

    def _tell_why_not(self, error: BaseException) -> None:
        """Log why the process is not started yet.

        A refusal of the broker is retried like any other error: a password may be being changed,
        and rights may still come. But somebody has to look.
        """
        reason = str(error) or repr(error)
        if _is_refused(error):
            self.log.error(
                "RabbitMQ refuses this process",
                reason=reason,
                advice="look at MANIPLE_BROKER_URL, and at what the broker lets that user do; "
                "it is tried again until it is let in",
            )
        else:
            self.log.warning("waiting for a server", reason=reason)
        self.health.set("start", ok=False, detail=reason)

    async def _end(self, runtime: Runtime[S], body: asyncio.Task[None]) -> int:
        self.leave.set()
        if not self.started.is_set():
            body.cancel()
        limit = self.settings.drain_timeout + DRAIN_MARGIN
        _, late = await asyncio.wait({body}, timeout=limit)
        if late:
            running = runtime.spawned
            body.cancel()
            await asyncio.wait({body}, timeout=1.0)
            self.log.error(
                "not drained in time; giving up",
                seconds=limit,
                tasks=running,
                exc_info=_cut_short(body),
            )
        await runtime.cancel_spawned()
        error = body.exception() if body.done() and not body.cancelled() else None
        if isinstance(error, ConfigurationError):
            # Of what was wrong in somebody's own code, its traceback; ours tells nothing more.
            what = "cannot go on" if self.started.is_set() else "cannot start"
            self.log.error(what, reason=str(error), exc_info=error.__cause__)
            return WRONG_USAGE
        if error is not None:
            self.log.error("process crashed", exc_info=error)
            return CRASHED
        return CRASHED if runtime.crashed or late else 0


def _cut_short(body: asyncio.Task[None]) -> BaseException | None:
    """Return the error of a cancelled task: its traceback shows what it was waiting for."""
    if body.cancelled():
        try:
            body.result()
        except asyncio.CancelledError as error:
            return error
    return None


async def _leave(runtime: Runtime, presence: Registration) -> None:
    for last in runtime.before_leaving:
        await last()
    await presence.deregister()


def _is_away(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_away, error.exceptions))
    return isinstance(error, _AWAY)


def _is_refused(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_refused, error.exceptions))
    return isinstance(error, BrokerRefused)


async def serve(settings: S, build: Build[S], stopping: asyncio.Event | None = None) -> int:
    """Run a process on the current loop until `stopping` is set; return its exit code."""
    return await _Process(settings, build, stopping or asyncio.Event()).run()


@contextlib.asynccontextmanager
async def running(settings: S, build: Build[S]) -> AsyncIterator[Runtime[S]]:
    """Run a process inside another program (a test) and give its runtime once it is started.

    Raises `ChildProcessError` with the exit code if it ends by itself.
    """
    process = _Process(settings, build, asyncio.Event())
    task = asyncio.create_task(process.run(), name=settings.instance)
    start = asyncio.create_task(process.started.wait())
    try:
        await asyncio.wait({task, start}, return_when=asyncio.FIRST_COMPLETED)
        if process.runtime is None or not process.started.is_set():
            raise ChildProcessError(f"{settings.instance} did not start: {await task}")
        yield process.runtime
    finally:
        start.cancel()
        process.stopping.set()
        code = await task
    if code:
        raise ChildProcessError(f"{settings.instance} ended with {code}")


async def _main(settings: S, build: Build[S]) -> int:
    stopping, told = asyncio.Event(), asyncio.Event()

    def signalled(number: int) -> None:
        if told.is_set():
            os._exit(CRASHED)
        told.set()  # a process that leaves by itself or on command is not cut short by the first
        get_logger("maniple.runner").info("signal", name=signal.Signals(number).name)
        stopping.set()

    def hung_up() -> None:
        get_logger("maniple.runner").info("signal", name=signal.SIGHUP.name)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, hung_up)
        keep_signals_from_children(signal.SIGHUP)
    keep_signals_from_children(signal.SIGTERM, signal.SIGINT)
    return await serve(settings, build, stopping)


def run(settings: S, build: Build[S]) -> None:
    """Run a process to its end; raises `SystemExit` unless the exit code is 0.

    1: something crashed or was not drained in time; 2: a setting is wrong.
    """
    configure_logging(settings)
    leave_no_secrets(settings)
    tune_collector()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            code = runner.run(_main(settings, frozen_once_built(build)))
    except ConfigurationError as error:
        flush_logs()
        sys.stderr.write(f"maniple-{settings.service}: {error}\n")
        code = WRONG_USAGE
    if code:
        raise SystemExit(code)
