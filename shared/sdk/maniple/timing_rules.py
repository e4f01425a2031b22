"""Which times of a cluster must be less than which others, and what breaks otherwise. Pure."""

from dataclasses import dataclass
from typing import Final

SETTINGS: Final = {
    "bounds.unreachable": "MANIPLE_UNREACHABLE_AFTER",
    "bounds.failed": "MANIPLE_FAILED_AFTER",
    "bounds.forgotten": "MANIPLE_FORGOTTEN_AFTER",
    "queues.leftover": "MANIPLE_LEFTOVER_QUIET",
}
"""The variables that set a single time; all others follow `MANIPLE_TIME_SCALE` only."""


@dataclass(frozen=True, slots=True)
class TimingRule:
    """The sum of some times must be less than that of others, or at most equal; `why` says why.

    A time is named by its path in `Timings`, and counts as often as it is named.
    """

    less: tuple[str, ...]
    more: tuple[str, ...]
    why: str
    equal: bool = False


RULES: Final = (
    # Heartbeats of an agent that is well come in time for everybody.
    TimingRule(
        ("heartbeats.confirm",),
        ("heartbeats.period",),
        "waiting for a confirm would delay the next heartbeat",
    ),
    TimingRule(
        ("heartbeats.longest", "watching.longest_step"),
        ("bounds.unreachable",),
        "an agent that is well would be suspected, if only by a registry that stood still",
    ),
    TimingRule(
        ("heartbeats.longest", "heartbeats.confirm"),
        ("fencing.fenced",),
        "an agent whose heartbeats are confirmed in time would be fenced",
    ),
    TimingRule(
        ("heartbeats.longest", "heartbeats.confirm"),
        ("catalog.ttl",),
        "an agent whose heartbeats are confirmed in time would be critical in Consul",
        equal=True,
    ),
    # What an agent has stopped before others have what it held.
    TimingRule(
        ("bounds.unreachable",),
        ("fencing.fenced",),
        "an agent that takes nothing new would be shown as active",
    ),
    TimingRule(
        ("fencing.fenced",), ("fencing.exclusive",), "what is stopped could be started again"
    ),
    TimingRule(
        ("fencing.stopped",),
        ("bounds.failed",),
        "an exclusive task could run elsewhere before its agent has stopped it",
    ),
    # The broker has last heard of a connection up to a tick before it was cut.
    TimingRule(
        ("fencing.stopped", "amqp.tick"),
        ("amqp.heartbeat", "amqp.heartbeat"),
        "the broker could give an exclusive task to others before its agent has stopped it",
    ),
    TimingRule(
        ("amqp.silent", "amqp.tick", "amqp.tick"),
        ("amqp.heartbeat", "amqp.heartbeat"),
        "the broker could give what an agent has to others before it knows that it is cut off",
    ),
    # A connection to the broker.
    TimingRule(
        ("amqp.heartbeat", "amqp.tick"),
        ("amqp.silent",),
        "a broker that is only quiet would be taken for dead",
    ),
    TimingRule(("amqp.tick",), ("amqp.confirm",), "every confirm would be late"),
    TimingRule(
        ("heartbeats.longest", "amqp.backoff"),
        ("fencing.fenced",),
        "a broker that is back at once would find its agents fenced",
    ),
    TimingRule(
        ("amqp.connect",), ("amqp.open",), "opening would end before connecting may", equal=True
    ),
    TimingRule(
        ("amqp.open",), ("amqp.longest_open",), "opening would never take longer", equal=True
    ),
    # Tasks that agents have and dispatchers count. The broker brings one again at most three
    # heartbeats after it last heard of the agent, which may have heard of it one earlier.
    TimingRule(
        (*4 * ("amqp.heartbeat",), "amqp.tick"),
        ("amqp.silent", "holding.orphaned"),
        "an agent would forget a task that the broker may still bring it again",
    ),
    TimingRule(
        ("holding.dissolve",), ("holding.longest",), "what comes again would be held shorter"
    ),
    TimingRule(
        ("reports.period", "reports.period"),
        ("reports.lately",),
        "a bulkhead would take what an agent has for what has ended",
    ),
    TimingRule(
        ("reports.period", "reports.confirm"),
        ("reports.heard",),
        "what an agent has would be forgotten when one report is confirmed late",
    ),
    TimingRule(
        ("reports.lately",),
        ("reports.heard",),
        "an agent's tasks would be forgotten before they must be told of",
    ),
    TimingRule(
        ("amqp.heartbeat", "amqp.heartbeat", "amqp.heartbeat"),
        ("reports.heard",),
        "the broker may still leave an agent the tasks that a bulkhead takes for ended",
    ),
    # Dispatchers among themselves.
    TimingRule(
        ("peers.presence", "peers.presence"),
        ("peers.unheard", "peers.unheard"),
        "one sign of life that is late would take a dispatcher for dead",
    ),
    TimingRule(("peers.unheard",), ("peers.alive",), "who owns nothing would still be waited for"),
    TimingRule(("peers.look",), ("peers.asked_anew",), "no look would find out in time"),
    TimingRule(("peers.asked_anew",), ("peers.answer",), "one that has died would be waited for"),
    TimingRule(
        ("peers.answer",),
        ("peers.alive",),
        "an owner that is slow would be taken for dead before others go on without it",
    ),
    TimingRule(
        ("peers.listens", "peers.tells_all"),
        ("peers.held",),
        "tasks would not wait until those that have just started own their limits",
    ),
    TimingRule(
        ("peers.alive", "peers.held"),
        ("peers.deaf",),
        "tasks would stop waiting for an owner while the broker only stands still for a moment",
    ),
    TimingRule(
        ("peers.tells_all", "peers.tells_all"),
        ("peers.listens",),
        "one that begins would own what it was not told of",
    ),
    # What runs where.
    TimingRule(
        ("policies.check", "policies.check"),
        ("policies.stale",),
        "one report that is late would make a process stale",
    ),
    TimingRule(
        ("policies.stale",), ("policies.forgotten",), "who is stale would never be shown as such"
    ),
    # Queues that do not do what they should.
    TimingRule(
        ("queues.patience", "queues.cancel"),
        ("amqp.confirm",),
        "one lane that is stuck would cost the connection of all",
    ),
    TimingRule(
        ("queues.patience", "queues.reply"),
        10 * ("amqp.confirm",),
        "one reply queue that is stuck would cost the connection of all",
    ),
    TimingRule(
        ("queues.stuck",), ("queues.most_stuck",), "a stuck lane would be tried ever more often"
    ),
    TimingRule(
        ("amqp.heartbeat", "amqp.heartbeat", "amqp.heartbeat"),
        ("queues.leftover",),
        "the broker may still hold tasks for an agent that is gone",
    ),
    # Lanes whose agents are gone.
    TimingRule(
        ("expiry.look", "expiry.look", "expiry.look"),
        ("expiry.every",),
        "what is over would end sooner where nobody knows of it than where one does",
    ),
    TimingRule(
        ("queues.patience",),
        ("expiry.settle",),
        "a task that finds no way back would be taken again before it waits elsewhere",
    ),
    TimingRule(
        ("expiry.every",), ("expiry.longest",), "a silent queue would be tried ever more often"
    ),
    # What a registry makes of silence, and of work that nobody takes.
    TimingRule(
        ("bounds.unreachable",),
        ("bounds.failed",),
        "an agent would be failed that was never suspected",
    ),
    TimingRule(("bounds.failed",), ("bounds.forgotten",), "a failed agent could begin again"),
    TimingRule(
        ("heartbeats.confirm",),
        ("watching.echo",),
        "a registry would take itself for deaf before its echo is late",
    ),
    TimingRule(
        ("watching.echo",),
        ("bounds.failed",),
        "one echo that is lost would delay failures by more than their own time",
    ),
    TimingRule(
        ("watching.scan",), ("watching.longest_step",), "a registry's clock would stand still"
    ),
    TimingRule(
        ("bounds.starving",), ("bounds.reconnect",), "who is not in doubt would be reconnected"
    ),
    TimingRule(("bounds.reconnect",), ("bounds.hopeless",), "reconnecting would never be tried"),
    TimingRule(
        ("bounds.hopeless",),
        ("bounds.reconnect", "standby.reconnect_grace"),
        "an agent would be told twice to reconnect, and evicted without its newest connections",
        equal=True,
    ),
    TimingRule(
        ("standby.grace",),
        ("standby.reconnect_grace",),
        "an agent would be told twice to reconnect",
        equal=True,
    ),
    TimingRule(
        ("standby.reconnect_grace",),
        ("standby.remembered",),
        "what was seen done would be done again",
    ),
    TimingRule(
        ("clocks.tell", "clocks.tell", "clocks.tell"),
        ("clocks.kept",),
        "a clock that was set back could not be told from one word of it that came late",
    ),
    # Consul.
    TimingRule(
        ("catalog.refresh", "catalog.refresh"),
        ("catalog.ttl",),
        "one refresh that is late would make a process critical that is well",
    ),
    TimingRule(
        ("catalog.http_timeout",),
        ("catalog.http_interval",),
        "looks at a page would overlap",
        equal=True,
    ),
    TimingRule(
        ("catalog.http_interval", "catalog.http_interval"),
        ("bounds.unwell",),
        "a check could have failed three times, for a life before",
        equal=True,
    ),
    TimingRule(
        ("bounds.unwell",),
        ("catalog.gone",),
        "an agent would be taken out of Consul before it is suspected",
        equal=True,
    ),
    TimingRule(
        ("leading.lease",),
        ("catalog.ttl",),
        "a registry would think that it leads for longer than it takes Consul to miss it",
    ),
    TimingRule(
        ("leading.look", "leading.look"),
        ("leading.lease",),
        "one look that is late would end a lead",
    ),
)
