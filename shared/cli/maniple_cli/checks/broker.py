"""The broker as any user sees it over AMQP: its version, declarations and consumers."""

from maniple.amqp.probe import BrokerView
from maniple.topology import (
    DEAD_BROKER,
    EXCHANGES,
    QUEUES,
    REQUEST_SERVICES,
    RETRY_QUEUE,
    SUBMIT,
    UNROUTED_QUEUE,
    request_queue,
)
from maniple_cli.checks.findings import CheckVerdict, Finding, Places, judged
from maniple_runtime.settings import environment_of

OLDEST_BROKER = (3, 10)
CONSUMED = {
    **{queue.name: "dispatcher" for queue in (SUBMIT, UNROUTED_QUEUE, RETRY_QUEUE, DEAD_BROKER)},
    **{request_queue(service).name: service for service in REQUEST_SERVICES},
}
"""The shared queues that must have a consumer, and which processes consume them."""


def version_of(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `3.10.8-1` is (3, 10, 8)."""
    numbers = []
    for part in text.split("-", maxsplit=1)[0].split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def version(places: Places, view: BrokerView) -> Finding:
    """Judge the broker's version."""
    found = f"{view.product} {view.version}, environment {environment_of(places.broker)!r}"
    if version_of(view.version) < OLDEST_BROKER:
        return Finding("broker", CheckVerdict.FAILED, found, "upgrade RabbitMQ to 3.10 or later")
    return Finding("broker", CheckVerdict.OK, found)


def declared(view: BrokerView) -> Finding:
    """Judge whether every exchange and queue that always exists has been declared."""
    missing = (*view.missing_exchanges, *view.missing_queues)
    return judged(
        "topology",
        CheckVerdict.FAILED,
        [f"missing: {', '.join(missing)}"] if missing else [],
        well=f"{len(EXCHANGES)} exchanges and {len(QUEUES)} queues are there",
        advice="start a dispatcher and a registry: they declare everything",
    )


def consumed(view: BrokerView) -> Finding:
    """Judge whether the shared queues have consumers."""
    idle = {name: by for name, by in CONSUMED.items() if view.consumers.get(name) == 0}
    return judged(
        "consumers",
        CheckVerdict.FAILED,
        [f"{name} has no consumer" for name in idle],
        well=f"{len(CONSUMED)} shared queues are consumed",
        advice=" and ".join(f"start a {by}" for by in sorted({*idle.values()})),
    )
