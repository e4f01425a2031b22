"""Celery on the same broker: its workers and its submitter."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.peers import PREFETCH_VARIABLE, TIMEOUT, URL_VARIABLE, Submit, Workers, running
from celery import Celery

TASK = "bench.noop"


def make_app(url: str, *, prefetch: int) -> Any:
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
    app.task(_noop, name=TASK)
    return app


def _noop(payload: Any) -> Any:
    """Return the payload."""
    return payload


@asynccontextmanager
async def side(url: str, workers: Workers, folder: Path) -> AsyncIterator[Submit]:
    """Run its workers, and give what submits."""
    app = make_app(url, prefetch=workers.prefetch)
    environ = {URL_VARIABLE: url, PREFETCH_VARIABLE: str(workers.prefetch)}
    commands = {f"celery-{number}": _worker(number, workers) for number in range(workers.processes)}
    async with running(commands, environ, folder):
        yield lambda count: asyncio.to_thread(_submit, app, count)


def _worker(number: int, workers: Workers) -> list[str]:
    return [
        *("celery", "-A", "bench.celery_app", "worker"),
        *("--pool", "threads", "--concurrency", str(workers.threads)),
        *("--loglevel", "WARNING", "--hostname", f"worker-{number}@localhost"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


def _submit(app: Any, count: int) -> float:
    """Submit tasks one by one, collect every result, and return tasks per second."""
    task = app.tasks[TASK]
    started = time.perf_counter()
    pending = [task.apply_async((number,)) for number in range(count)]
    for number, result in enumerate(pending):
        if result.get(timeout=TIMEOUT) != number:
            raise RuntimeError(f"Celery returned something else for {number}")
    return count / (time.perf_counter() - started)
