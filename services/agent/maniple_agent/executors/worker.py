"""A worker process: `python -m maniple_agent.executors.worker SOCKET LIFELINE AGENT HANDLERS…`.

It runs one call after another, and ends when its agent does, see `lifeline`; `AGENT` is the process
that started it.
"""

import contextlib
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from msgspec import Raw

from maniple.clock import SYSTEM_CLOCK
from maniple.codec import encode
from maniple.errors import ConfigurationError
from maniple.execution import run_sync
from maniple.forks import keep_from_children, keep_signals_from_children
from maniple.loading import load_registry
from maniple.task_registry import TaskRegistry
from maniple.tasks import TaskContext
from maniple.values import encode_progress
from maniple_agent.executors import cgroups
from maniple_agent.executors.failures import Failures
from maniple_agent.executors.frames import LENGTH, WorkerCall, WorkerReply, framed
from maniple_agent.executors.latest_progress import PERIOD
from maniple_agent.executors.lifeline import die_with_agent
from maniple_agent.settings import AgentSettings
from maniple_runtime.telemetry import configure_logging
from maniple_runtime.telemetry.context import in_span

if TYPE_CHECKING:
    from maniple_runtime.telemetry.export import Collector

NICENESS = 5
LOG_PATIENCE = 0.1  # seconds for a line to be written: a handler may crash after it

_decode_call = msgspec.json.Decoder(WorkerCall).decode


def main(arguments: list[str]) -> None:
    """Serve calls until the agent closes the socket."""
    die_with_agent(int(arguments[1]), int(arguments[2]))
    # Not `SIG_IGN`: what a handler starts would ignore it too, and could not be interrupted.
    signal.signal(signal.SIGINT, lambda *_: None)
    keep_signals_from_children(signal.SIGINT, signal.SIGTERM)
    connection = socket.socket(fileno=int(arguments[0]))
    connection.set_inheritable(False)
    keep_from_children(connection.fileno())  # or the agent would not see that this process ended
    _be_the_first_to_go()
    os.nice(NICENESS)  # room for the agent's heartbeats when all processors are busy
    group = os.environ.pop(cgroups.VARIABLE, None)
    configure_logging(AgentSettings(), patience=LOG_PATIENCE)
    limit = _MemoryLimit(None if group is None else Path(group))
    try:
        registry = load_registry(arguments[3:])
    except ConfigurationError as error:
        sys.stderr.write(f"worker: {error}\n")
        raise SystemExit(2) from error
    _send(connection, WorkerReply(ready=True))
    clock = SYSTEM_CLOCK.monotonic
    failures = Failures(clock)
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    while (body := _receive(connection)) is not None:
        call = None
        if limit.of_earlier_calls:
            call = _decode_call(body)
            limit.set(call.memory)  # it may end here: then another worker gets the call
        _send(connection, WorkerReply(ready=True))
        if call is None:
            call = _decode_call(body)
            limit.set(call.memory)
        _send(connection, _run(registry, call, connection, failures, clock))
        os.fchdir(folder)  # where the next handler is, wherever this one went


def _run(
    registry: TaskRegistry,
    call: WorkerCall,
    connection: socket.socket,
    failures: Failures,
    clock: Callable[[], float],
) -> WorkerReply:
    definition = registry.get(call.task.capability)
    if definition is None:
        raise SystemExit(f"worker: no handler for {call.task.capability!r}")

    progress = _Progress(connection, clock)
    context = TaskContext(call.task, call.timeout, call.agent, call.traceparent, progress.report)
    started = clock()
    collector = _collector() if call.traced else None
    with in_span(call.traceparent if call.traced else None):
        outcome = run_sync(definition, context, call.payload, failures.tell)
    progress.send_last()
    return WorkerReply(
        spans=[] if collector is None else collector.take_spans(),
        value=Raw(outcome.output),
        failure=outcome.failure,
        retryable=outcome.retryable,
        seconds=clock() - started,
    )


@cache
def _collector() -> "Collector":
    """Return what keeps the spans that handlers make here, from the first traced call on."""
    from maniple_runtime.telemetry.export import Collector, set_provider  # noqa: PLC0415

    collector = Collector()
    set_provider(collector)
    return collector


class _Progress:
    """What the handler of one call reports: the latest value, at most once in `PERIOD` seconds."""

    def __init__(self, connection: socket.socket, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._connection = connection
        self._lock = threading.Lock()
        self._latest: bytes | None = None
        self._sent_at = float("-inf")
        self._timed = False
        self._over = False

    def report(self, value: Any) -> None:
        encoded = encode_progress(value)
        with self._lock:
            if self._over:
                return  # a thread of the handler that goes on
            self._latest = encoded
            self._send_when_due()

    def send_last(self) -> None:
        """Send what waits, and nothing after it."""
        with self._lock:
            self._over = True
            self._send()

    def _send_when_due(self) -> None:
        wait = self._sent_at + PERIOD - self._clock()
        if wait <= 0:
            self._send()
        elif not self._timed:
            self._time(wait)

    def _time(self, wait: float) -> None:
        timer = threading.Timer(wait, self._due)
        timer.daemon = True
        with contextlib.suppress(RuntimeError, MemoryError):  # then it goes with the next one
            timer.start()
            self._timed = True

    def _due(self) -> None:
        with self._lock:
            self._timed = False
            if not self._over:
                self._send_when_due()  # a report may have sent it while this thread was late

    def _send(self) -> None:
        latest, self._latest = self._latest, None
        if latest is not None:
            self._sent_at = self._clock()
            _send(self._connection, WorkerReply(progress=True, value=Raw(latest)))


def _be_the_first_to_go() -> None:
    """Have the kernel kill a worker, not the agent, when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


class _MemoryLimit:
    """What handlers may use: of the worker's cgroup, or, without one, of its address space."""

    def __init__(self, group: Path | None) -> None:
        """Enter the cgroup. Should it not be possible, now or later, a line in the log says why."""
        self._group = group
        self._bytes = 0
        if group is not None:
            with self._or_address_space():
                cgroups.enter(group)

    @property
    def of_earlier_calls(self) -> bool:
        """Whether a cgroup may hold more, left by earlier calls, than the next one may have.

        One that has run nothing holds nothing like that: if it is too large for the call all the
        same, this is to fail.
        """
        return self._group is not None and self._bytes > 0

    def set(self, limit: int) -> None:
        """Allow the next call, and what it starts, so many bytes."""
        if self._group is not None:
            self._bound(self._group, limit)
        if self._group is None:
            with contextlib.suppress(ValueError, OSError):
                _, hard = resource.getrlimit(resource.RLIMIT_AS)
                resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

    def _bound(self, group: Path, limit: int) -> None:
        if limit != self._bytes:
            with self._or_address_space():
                cgroups.bound(group, limit)
            self._bytes = limit

    @contextlib.contextmanager
    def _or_address_space(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._group = None
            structlog.get_logger("maniple.agent.worker").info(cgroups.INSTEAD, reason=repr(error))


def _send(connection: socket.socket, reply: WorkerReply) -> None:
    connection.sendall(framed(encode(reply)))


def _receive(connection: socket.socket) -> bytes | None:
    header = _exactly(connection, LENGTH.size)
    return None if header is None else _exactly(connection, LENGTH.unpack(header)[0])


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 16))
        if not part:
            return None
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    main(sys.argv[1:])
