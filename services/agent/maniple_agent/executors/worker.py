"""A worker process: `python -m maniple_agent.executors.worker SOCKET LIFELINE HANDLERS…`.

It runs one call after another. It ends when its agent does, however that ends: the agent holds the
other end of `LIFELINE`, whose end of file a thread of its own waits for.
"""

import contextlib
import os
import resource
import signal
import socket
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
from msgspec import Raw

from maniple.codec import encode
from maniple.errors import ConfigurationError, InvalidMessage
from maniple.execution import encode_output, run_sync
from maniple.tasks import TaskContext, TaskRegistry, load_registry
from maniple_agent.executors.frames import LENGTH, Call, Reply, framed

_decode_call = msgspec.json.Decoder(Call).decode


def main(arguments: list[str]) -> None:
    """Serve calls until the agent closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = socket.socket(fileno=int(arguments[0]))
    threading.Thread(target=_die_with_agent, args=(int(arguments[1]),), daemon=True).start()
    _be_the_first_to_go()
    try:
        registry = load_registry(arguments[2:])
    except ConfigurationError as error:
        sys.stderr.write(f"worker: {error}\n")
        raise SystemExit(2) from error
    _send(connection, Reply(ready=True))
    while (body := _receive(connection)) is not None:
        _send(connection, Reply(ready=True))
        _send(connection, _run(registry, _decode_call(body), connection))


def _run(registry: TaskRegistry, call: Call, connection: socket.socket) -> Reply:
    definition = registry.get(call.capability)
    if definition is None:
        raise SystemExit(f"worker: no handler for {call.capability!r}")

    sending = threading.Lock()
    over = False

    def report(value: Any) -> None:
        with contextlib.suppress(InvalidMessage):  # progress is a courtesy
            progress = Reply(progress=True, value=Raw(encode_output(value)))
            with sending:
                if not over:
                    _send(connection, progress)

    context = TaskContext(
        task_id=call.task_id,
        capability=call.capability,
        attempt=call.attempt,
        deadline=call.deadline,
        timeout=call.timeout,
        tenant=call.tenant,
        labels=call.labels,
        agent=call.agent,
        traceparent=call.traceparent,
        report=report,
    )
    _limit_memory(call.memory)
    started = monotonic()
    outcome = run_sync(definition, context, call.payload)
    with sending:  # threads of the handler may go on
        over = True
    return Reply(
        value=Raw(outcome.output),
        failure=outcome.failure,
        retryable=outcome.retryable,
        seconds=monotonic() - started,
    )


def _die_with_agent(lifeline: int) -> None:
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # and what the handler has started
    os._exit(1)


def _be_the_first_to_go() -> None:
    """Let the kernel take a worker, not the agent, when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _limit_memory(limit: int) -> None:
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _send(connection: socket.socket, reply: Reply) -> None:
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
