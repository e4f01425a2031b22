"""Celery on the same broker, in a vhost of its own: its workers and its submitter."""

import asyncio
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery

from maniple.local import programs
from maniple.local.cluster import Cluster

TASK = "bench.noop"
URL_VARIABLE = "BENCH_CELERY_URL"
PREFETCH_VARIABLE = "BENCH_CELERY_PREFETCH"
USER = VHOST = "bench"
RESULT_TIMEOUT = 120.0


@dataclass(frozen=True)
class Workers:
    """How many worker processes, with how many threads and how much prefetched for each thread."""

    processes: int = 1
    threads: int = 8
    prefetch: int = 16


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


async def add_vhost(cluster: Cluster) -> str:
    """Add a vhost and its user to the cluster's broker; return their URL. About 2 s."""
    password = secrets.token_urlsafe(12)
    everything = dict.fromkeys(("configure", "write", "read"), ".*")
    definitions = {
        "vhosts": [{"name": VHOST}],
        "users": [{"name": USER, "password": password, "tags": []}],
        "permissions": [{"user": USER, "vhost": VHOST, **everything}],
    }
    file = cluster.data_dir / "bench.json"
    file.write_text(json.dumps(definitions))
    broker = next(child for child in cluster.servers.children if child.spec.name == "rabbitmq")
    control = await asyncio.create_subprocess_exec(
        str(programs.rabbitmq_server().with_name("rabbitmqctl")),
        "--quiet",
        "import_definitions",
        str(file),
        env={**os.environ, **broker.spec.env},
    )
    if await control.wait() != 0:
        raise RuntimeError("rabbitmqctl import_definitions failed")
    location = cluster.servers.broker_url("operator").rpartition("@")[2].partition("/")[0]
    return f"amqp://{USER}:{password}@{location}/{VHOST}"


@contextlib.asynccontextmanager
async def running(url: str, workers: Workers, logs: Path) -> AsyncIterator[None]:
    """Run Celery's workers."""
    environ = {
        **os.environ,
        URL_VARIABLE: url,
        PREFETCH_VARIABLE: str(workers.prefetch),
        "PYTHONWARNINGS": "ignore",
    }
    started = [
        await _worker(number, workers, environ, logs) for number in range(1, workers.processes + 1)
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        await asyncio.gather(*(process.wait() for process in started))


async def _worker(
    number: int, workers: Workers, environ: dict[str, str], logs: Path
) -> asyncio.subprocess.Process:
    with (logs / f"celery-{number}.log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "celery", "-A", "bench.celery_app", "worker"),
            *("--pool", "threads", "--concurrency", str(workers.threads)),
            *("--loglevel", "WARNING", "--hostname", f"worker-{number}@localhost"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            env=environ,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
        )


def submit(app: Any, count: int) -> float:
    """Submit tasks one by one, collect every result, and return tasks per second."""
    task = app.tasks[TASK]
    started = time.perf_counter()
    pending = [task.apply_async((number,)) for number in range(count)]
    for number, result in enumerate(pending):
        if result.get(timeout=RESULT_TIMEOUT) != number:
            raise RuntimeError(f"Celery returned something else for {number}")
    return count / (time.perf_counter() - started)
