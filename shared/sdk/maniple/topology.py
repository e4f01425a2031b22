"""Every exchange, queue, binding and argument as data, so that all processes declare the same.

Names are given once, here. `docs/topology.md` explains them; `maniple.amqp.declare` and
`maniple_runtime.control.plane` apply them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

ExchangeKind = Literal["direct", "topic", "fanout"]
QueueKind = Literal["quorum", "stream", "classic"]
Arguments = Mapping[str, str | int | bool]


@dataclass(frozen=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: ExchangeKind
    internal: bool = False
    alternate: str | None = None

    @property
    def arguments(self) -> dict[str, str | int | bool]:
        """AMQP arguments of the declaration."""
        return {"alternate-exchange": self.alternate} if self.alternate else {}


@dataclass(frozen=True)
class Queue:
    """A durable queue and its bindings as (exchange, routing key)."""

    name: str
    kind: QueueKind = "quorum"
    arguments: Arguments = field(default_factory=dict)
    bindings: tuple[tuple[str, str], ...] = ()

    @property
    def all_arguments(self) -> dict[str, str | int | bool]:
        """AMQP arguments of the declaration, the queue's type among them."""
        return {"x-queue-type": self.kind, **self.arguments}


TASKS: Final = Exchange("maniple.tasks", "topic", alternate="maniple.unrouted")
UNROUTED: Final = Exchange("maniple.unrouted", "fanout", internal=True)
LANES: Final = Exchange("maniple.lanes", "direct")
AGENTS: Final = Exchange("maniple.agents", "direct")
DELAY: Final = Exchange("maniple.delay", "direct")
RETRY: Final = Exchange("maniple.retry", "fanout", internal=True)
RESULTS: Final = Exchange("maniple.results", "topic")
REPLIES: Final = Exchange("maniple.replies", "direct")
EVENTS: Final = Exchange("maniple.events", "topic")
HEARTBEATS: Final = Exchange("maniple.heartbeats", "fanout")
OUTCOMES: Final = Exchange("maniple.outcomes", "fanout")
CONTROL: Final = Exchange("maniple.control", "topic")
REQUESTS: Final = Exchange("maniple.requests", "direct")
DEAD: Final = Exchange("maniple.dead", "topic")
DEFAULT: Final = Exchange("", "direct")
"""The broker's own exchange, which needs no declaration: its routing keys are names of queues."""

EXCHANGES: Final = (
    UNROUTED, TASKS, LANES, AGENTS, DELAY, RETRY, RESULTS, REPLIES, EVENTS, HEARTBEATS, OUTCOMES,
    CONTROL, REQUESTS, DEAD,
)  # fmt: skip

BATCH_KEY: Final = "batch"
ACCEPTED_KEY: Final = "task.accepted"
RUNNING_KEY: Final = "task.running"
ADMITTED_KEY: Final = "maniple.admitted"  # of `maniple.results`, of which the records have all
REFUSED_KEY: Final = "maniple.refused"  # of what was never admitted: any name may stand in it
MARK_KEY: Final = "maniple.mark"  # of what shows a reader of the records that it has all
RESERVED_PREFIX: Final = "maniple."
REPLY_PREFIX: Final = "maniple.replies."
READS_COMPRESSED: Final = "z."
"""How the addresses of clients begin that read compressed bundles; others' have no point."""

SUSPECT_AFTER: Final = 2  # agents lost, after which a task is run apart from others
SUBMIT_DELIVERIES: Final = 50
LANE_DELIVERIES: Final = 100
# From 4.0 a queue without a limit has one of 20, after which the broker drops; 3.10 drops at once
# where 4.0 takes -1 for none.
UNLIMITED_DELIVERIES: Final = 1_000_000_000
SUBMIT_LENGTH: Final = 1_000_000
LANE_LENGTH: Final = 1_000_000
DELAY_LENGTH: Final = 5_000_000
REQUEST_LENGTH: Final = 10_000
REPLY_LENGTH: Final = 200_000
REPLY_EXPIRY_MS: Final = 300_000
RECORDS_AGE: Final = "8D"  # longer than the longest deadline (7 days) + 1 h
DEAD_AGE: Final = "30D"
SEGMENT_BYTES: Final = 100_000_000

DELAY_TIERS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)


def _dead_letters(queue: str) -> dict[str, str | int | bool]:
    return {
        "x-dead-letter-exchange": DEAD.name,
        "x-dead-letter-routing-key": f"broker.{queue}",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def _stream(age: str, length: int) -> dict[str, str | int | bool]:
    return {
        "x-max-age": age,
        "x-max-length-bytes": length,
        "x-stream-max-segment-size-bytes": SEGMENT_BYTES,
    }


SUBMIT: Final = Queue(
    "maniple.submit",
    arguments={
        **_dead_letters("maniple.submit"),
        "x-max-length": SUBMIT_LENGTH,
        "x-delivery-limit": SUBMIT_DELIVERIES,
    },
    bindings=((TASKS.name, "#"),),
)
UNROUTED_QUEUE: Final = Queue(
    "maniple.unrouted",
    arguments={
        **_dead_letters("maniple.unrouted"),
        "x-max-length": SUBMIT_LENGTH,
        "x-delivery-limit": SUBMIT_DELIVERIES,
    },
    bindings=((UNROUTED.name, ""),),
)
RETRY_QUEUE: Final = Queue(
    "maniple.retry",
    # No length limit: an at-least-once dead-letter whose target refuses is retried every 180 s.
    arguments={**_dead_letters("maniple.retry"), "x-delivery-limit": SUBMIT_DELIVERIES},
    bindings=((RETRY.name, ""),),
)
RECORDS: Final = Queue(
    "maniple.records",
    "stream",
    _stream(RECORDS_AGE, 50_000_000_000),
    (
        (RESULTS.name, "#"),
        (EVENTS.name, ACCEPTED_KEY),
        (EVENTS.name, RUNNING_KEY),
        (EVENTS.name, "agent.#"),
        (EVENTS.name, "policy.#"),
    ),
)
DEAD_LOG: Final = Queue(
    "maniple.dead.log",
    "stream",
    _stream(DEAD_AGE, 10_000_000_000),
    ((DEAD.name, "broker.#"), (DEAD.name, "service.dead.#")),
)
REFUSED_LOG: Final = Queue(
    "maniple.refused.log",
    "stream",
    _stream(DEAD_AGE, 2_000_000_000),
    ((DEAD.name, "service.refused.#"),),
)
DEAD_BROKER: Final = Queue(
    "maniple.dead.broker",
    arguments={"x-delivery-limit": UNLIMITED_DELIVERIES},
    bindings=((DEAD.name, "broker.#"),),
)


def refused_key(code: str) -> str:
    """Routing key on `maniple.dead` of input refused with `code`."""
    return f"service.refused.{code}"


def progress_key(capability: str) -> str:
    """Routing key on `maniple.events` of the progress of a capability's tasks."""
    return f"task.progress.{capability}"


def tier_name(seconds: float) -> str:
    """Name of a delay tier, which is its routing key on `maniple.delay`: `0.5`, `30`."""
    return f"{seconds:g}"


def delay_queue(seconds: float) -> Queue:
    """One tier of `maniple.delay`: waits `seconds`, then dead-letters to `maniple.retry`.

    Never one queue with mixed times: quorum queues expire only at the head.
    """
    return Queue(
        f"maniple.delay.{tier_name(seconds)}",
        arguments={
            "x-message-ttl": round(seconds * 1000),
            "x-dead-letter-exchange": RETRY.name,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-max-length": DELAY_LENGTH,
        },
        bindings=((DELAY.name, tier_name(seconds)),),
    )


def request_queue(service: str) -> Queue:
    """The queue of requests to `service`, for which its replicas compete."""
    return Queue(
        f"maniple.requests.{service}",
        arguments={
            "x-overflow": "reject-publish",
            "x-max-length": REQUEST_LENGTH,
            "x-message-ttl": 60_000,
            "x-delivery-limit": SUBMIT_DELIVERIES,
        },
        bindings=((REQUESTS.name, service),),
    )


REQUEST_SERVICES: Final = ("registry", "policy")

QUEUES: Final = (
    SUBMIT,
    UNROUTED_QUEUE,
    RETRY_QUEUE,
    RECORDS,
    DEAD_LOG,
    REFUSED_LOG,
    DEAD_BROKER,
    *(delay_queue(tier) for tier in DELAY_TIERS),
    *(request_queue(service) for service in REQUEST_SERVICES),
)


def lane_name(capability: str, variant: str | None = None) -> str:
    """Return the lane of a capability, or of one variant of it: `text.stats@canary`."""
    return f"{capability}@{variant}" if variant else capability


def suspect_lane(lane: str) -> str:
    """Return the routing key of a lane's suspect queue."""
    return f"{lane}.suspect"


def lane_key(lane: str, lost: int) -> str:
    """Return the key of `maniple.lanes` for a task that was lost by `lost` agents."""
    return suspect_lane(lane) if lost >= SUSPECT_AFTER else lane


def lane_queues(lane: str) -> tuple[Queue, Queue]:
    """Return the queue of a lane and the one of its suspects (tasks that lost agents)."""
    return _lane_queue(lane), _lane_queue(suspect_lane(lane))


def _lane_queue(key: str) -> Queue:
    return _work_queue(f"maniple.lane.{key}", LANES, key)


def agent_queue(agent: str) -> Queue:
    """Return the queue of one agent, for capabilities with affinity."""
    return _work_queue(f"maniple.agent.{agent}", AGENTS, agent)


def _work_queue(name: str, exchange: Exchange, key: str) -> Queue:
    return Queue(
        name,
        arguments={
            **_dead_letters(name),
            "x-max-length": LANE_LENGTH,
            "x-delivery-limit": LANE_DELIVERIES,
        },
        bindings=((exchange.name, key),),
    )


def reply_queue(client: str, address: str) -> Queue:
    """Return the SDK's own bounded reply queue; it outlives a lost connection for 5 minutes.

    Its name can be read in many places; only who knows the `address` can have results sent to it.
    """
    return Queue(
        f"{REPLY_PREFIX}{client}",
        "classic",
        {
            "x-max-length": REPLY_LENGTH,
            "x-overflow": "reject-publish",
            "x-expires": REPLY_EXPIRY_MS,
        },
        ((REPLIES.name, address),),
    )
