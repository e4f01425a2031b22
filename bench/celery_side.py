"""Celery on the same broker: its workers, and the client that submits to them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.peers import Workers, running
from bench.tally import (
    PREFETCH_VARIABLE,
    TALLY_VARIABLE,
    TIMEOUT,
    URL_VARIABLE,
    Action,
    Tally,
    submitting,
)
from celery import Celery

TASK = "bench.noop"
COUNTED = "bench.counted"
CHUNK = 100  # tasks in a message, where Celery's `chunks` stands beside our bundles
SETTINGS = (
    "classic queues, acks_late, reject_on_worker_lost, results by rpc:// and transient, no events, "
    "gossip, mingle or heartbeats"
)


def make_app(url: str, tally: Tally, *, prefetch: int) -> Any:
    """Return Celery as the comparison has it.

    Late acknowledgement and rejection on a lost worker are what comes nearest to Maniple's
    promise; everything else is what makes Celery fastest.
    """
    app = Celery("bench", broker=url, backend="rpc://")
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=False,
        result_persistent=False,
        worker_prefetch_multiplier=prefetch,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_heartbeat=0,
    )

    def counted(payload: Any) -> None:  # noqa: ARG001 - as large a task as the others'
        tally.add()

    app.task(_noop, name=TASK)
    app.task(counted, name=COUNTED, ignore_result=True)
    return app


def _noop(payload: Any) -> Any:
    """Return the payload."""
    return payload


@asynccontextmanager
async def workers(
    environ: Mapping[str, str], size: Workers, folder: Path
) -> AsyncIterator[list[int]]:
    """Run its workers."""
    commands = {f"celery-{number}": _worker(number, size) for number in range(size.processes)}
    async with running(commands, {**environ, PREFETCH_VARIABLE: str(size.prefetch)}, folder) as ids:
        yield ids


def _worker(number: int, size: Workers) -> list[str]:
    return [
        *("celery", "-A", "bench.celery_app", "worker"),
        *("--pool", "threads", "--concurrency", str(size.threads)),
        *("--loglevel", "WARNING", "--hostname", f"worker-{number}@localhost"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


@asynccontextmanager
async def client(environ: Mapping[str, str]) -> AsyncIterator[dict[str, Action]]:
    """Give what submits: with results, without, and in chunks with results."""
    tally = Tally(Path(environ[TALLY_VARIABLE]))
    app = make_app(environ[URL_VARIABLE], tally, prefetch=1)
    task, counted = app.tasks[TASK], app.tasks[COUNTED]

    def replied(count: int) -> None:
        pending = [task.apply_async((number,)) for number in range(count)]
        for number, result in enumerate(pending):
            if result.get(timeout=TIMEOUT) != number:
                raise RuntimeError(f"Celery returned something else for {number}")

    def ignored(count: int) -> None:
        for number in range(count):
            counted.apply_async((number,))

    def chunks(count: int) -> None:
        group = task.chunks(((number,) for number in range(count)), CHUNK).apply_async()
        found = [number for chunk in group.get(timeout=TIMEOUT) for number in chunk]
        if found != list(range(count)):
            raise RuntimeError("Celery returned something else for its chunks")

    yield {
        "replied": submitting(replied),
        "ignored": submitting(ignored, tally),
        "chunks": submitting(chunks),
    }
