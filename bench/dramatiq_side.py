"""Dramatiq on the same broker. It keeps no results in RabbitMQ, so what ran is counted."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.peers import Workers, running
from bench.tally import (
    TALLY_VARIABLE,
    URL_VARIABLE,
    Action,
    Tally,
    submitting,
)
from dramatiq import actor, set_broker
from dramatiq.brokers.rabbitmq import RabbitmqBroker

SETTINGS = "classic queues, no middleware, no results"


def make_actor(url: str, tally: Tally, *, confirmed: bool = False) -> Any:
    """Return the actor as the comparison has it: as fast as it can be, with confirms or not."""
    broker = RabbitmqBroker(url=url, middleware=[], confirm_delivery=confirmed)
    set_broker(broker)

    def noop(payload: Any) -> None:  # noqa: ARG001 - as large a task as the others'
        tally.add()

    return actor(actor_name="noop", queue_name="dramatiq", broker=broker)(noop)


@asynccontextmanager
async def workers(
    environ: Mapping[str, str], size: Workers, folder: Path
) -> AsyncIterator[list[int]]:
    """Run its workers."""
    held = {"dramatiq_queue_prefetch": str(size.held)}
    given = ("--processes", str(size.processes), "--threads", str(size.threads))
    command = ["dramatiq", "bench.dramatiq_app", *given]
    async with running({"dramatiq": command}, {**environ, **held}, folder) as ids:
        yield ids


@asynccontextmanager
async def client(environ: Mapping[str, str]) -> AsyncIterator[dict[str, Action]]:
    """Give what submits: without confirms, and with one awaited for each message."""
    tally = Tally(Path(environ[TALLY_VARIABLE]))
    url = environ[URL_VARIABLE]

    def sending(noop: Any) -> Action:
        def submit(count: int) -> None:
            for number in range(count):
                noop.send(number)

        return submitting(submit, tally)

    yield {
        "unconfirmed": sending(make_actor(url, tally)),
        "confirmed": sending(make_actor(url, tally, confirmed=True)),
    }
