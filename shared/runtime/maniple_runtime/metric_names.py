"""Names of the metrics that processes expose: every name and label set is declared here once.

Labels are bounded: never a task's or an agent's id.
"""

from dataclasses import dataclass

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG = (*_FAST, 30.0, 60.0, 300.0, 900.0, 3600.0)
_COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


@dataclass(frozen=True, slots=True)
class CounterName:
    """A number that only rises; exposed with `_total` behind its name."""

    name: str
    text: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GaugeName:
    """A number that is what it is now."""

    name: str
    text: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HistogramName:
    """A distribution, with the upper bounds of its buckets."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = _FAST


MetricName = CounterName | GaugeName | HistogramName

# dispatcher
TASKS_SUBMITTED = CounterName("maniple_tasks_submitted", "Tasks read from maniple.submit")
SUBMISSIONS_READ = CounterName(
    "maniple_submissions_read", "Messages read from maniple.submit, each of one task or many"
)
TASKS_ACCEPTED = CounterName(
    "maniple_tasks_accepted", "Tasks that a lane has confirmed", ("capability",)
)
TASKS_REJECTED = CounterName("maniple_tasks_rejected", "Tasks not admitted, by code", ("code",))
TASKS_DELAYED = CounterName("maniple_tasks_delayed", "Tasks sent to a delay tier", ("reason",))
POLICY_DECISIONS = CounterName(
    "maniple_policy_decisions",
    "Tasks that a policy refused, held back or sent another way",
    ("kind", "name", "decision"),
)
MIRRORS_DROPPED = CounterName(
    "maniple_mirrors_dropped", "Copies for mirrors that no lane took in time"
)
BREAKER_OPEN = GaugeName(
    "maniple_breaker_open",
    "1 while the circuit breaker of a lane is not closed; under `other` how many are not",
    ("lane",),
)
DEAD_LETTERS = CounterName(
    "maniple_dead_letters", "Messages that the broker gave up, by its reason", ("reason",)
)
BUNDLES_SENT = CounterName("maniple_bundles_sent", "Bundles confirmed by the broker", ("exchange",))
BYTES_SENT = CounterName(
    "maniple_bytes_sent", "Bytes of the bundles that the broker confirmed", ("exchange",)
)
BUNDLE_TASKS = HistogramName(
    "maniple_bundle_tasks", "Tasks in a bundle that was sent", ("exchange",), _COUNTS
)

# agent
RESULTS = CounterName(
    "maniple_results",
    "Results published; the plain lane has an empty variant",
    ("capability", "variant", "status"),
)
RUN_SECONDS = HistogramName(
    "maniple_run_seconds", "Run time of one attempt", ("capability",), _LONG
)
QUEUE_SECONDS = HistogramName(
    "maniple_queue_seconds", "From dispatch to the start of an attempt", ("capability",), _LONG
)
IN_FLIGHT = GaugeName("maniple_in_flight", "Tasks running", ("executor",))
HELD = GaugeName("maniple_held", "Tasks received and not yet started")
HANDED_BACK = CounterName("maniple_handed_back", "Tasks returned to their lane", ("reason",))
TASKS_RETRIED = CounterName("maniple_tasks_retried", "Failed attempts tried again", ("capability",))
HEARTBEATS_SENT = CounterName("maniple_heartbeats_sent", "Heartbeats that the broker confirmed")

# registry
HEARTBEATS_SEEN = CounterName("maniple_heartbeats_seen", "Heartbeats read")
AGENTS = GaugeName("maniple_agents", "Agents known, by state", ("state",))
AGENTS_MISTIMED = GaugeName(
    "maniple_agents_mistimed",
    "Agents whose times do not fit those of this registry, by what may come of it",
    ("risk",),
)
EVICTIONS = CounterName("maniple_evictions", "Agents declared failed, by reason", ("reason",))
LEADS = GaugeName("maniple_leads", "1 in the process that leads its service")
ECHOES = CounterName(
    "maniple_echoes", "Own echoes asked for before agents were suspected or failed", ("outcome",)
)
QUEUES_SUSPECTED = CounterName(
    "maniple_queues_suspected", "Queues on which agents starved together, so that none was evicted"
)

# policy service
POLICY_PROCESSES = GaugeName(
    "maniple_policy_processes",
    "Processes that evaluate policies, by whether they have those in force",
    ("state",),
)

# broker links, wherever they are
REPLIES_DROPPED = CounterName("maniple_replies_dropped", "Replies that nobody could take")
PUBLISHES_REFUSED = CounterName(
    "maniple_publishes_refused", "Publishes that a queue refused", ("exchange",)
)
PUBLISHES_RETURNED = CounterName(
    "maniple_publishes_returned", "Publishes that nothing was bound for", ("exchange",)
)
RECONNECTS = CounterName("maniple_reconnects", "Connections to the broker built anew", ("link",))
PUBLISHING_BLOCKED = GaugeName(
    "maniple_publishing_blocked", "1 while an alarm of the broker holds back publishes", ("link",)
)
HELD_BYTES = GaugeName(
    "maniple_held_bytes", "Bytes of messages that were delivered and are not settled"
)
QUEUES_HELD_BACK = GaugeName(
    "maniple_queues_held_back", "Queues from which nothing more is taken, for the bytes held"
)
CONTROL_DROPPED = CounterName(
    "maniple_control_messages_dropped",
    "Messages of the control plane not acted on: undecodable, of the future, or it failed",
    ("reason",),
)

# every process
SPANS_DROPPED = CounterName(
    "maniple_spans_dropped", "Spans not exported: the queue was full, or that failed", ("reason",)
)
TRACES_LIMITED = CounterName(
    "maniple_traces_limited",
    "Traces not kept because there are too many: wanted by a submitter, or late (failed, retried)",
    ("why",),
)
LOOP_LAG = GaugeName("maniple_loop_lag_seconds", "How late the connection loop was, at worst")
LOG_LINES_DROPPED = CounterName(
    "maniple_log_lines_dropped", "Log lines that were not written: nobody read them in time"
)
READY = GaugeName("maniple_ready", "1 while work may be sent to this process")
COMPONENT_OK = GaugeName(
    "maniple_component_ok", "1 while a component of /health is well", ("component",)
)
POLICY_VERSION = GaugeName(
    "maniple_policy_version", "Version of a policy in force in this process", ("kind", "name")
)
POLICIES_INVALID = GaugeName("maniple_policies_invalid", "Stored policies that cannot be used")

ALL: tuple[MetricName, ...] = (
    TASKS_SUBMITTED,
    SUBMISSIONS_READ,
    TASKS_ACCEPTED,
    TASKS_REJECTED,
    TASKS_DELAYED,
    POLICY_DECISIONS,
    MIRRORS_DROPPED,
    BREAKER_OPEN,
    DEAD_LETTERS,
    BUNDLES_SENT,
    BYTES_SENT,
    BUNDLE_TASKS,
    RESULTS,
    RUN_SECONDS,
    QUEUE_SECONDS,
    IN_FLIGHT,
    HELD,
    HANDED_BACK,
    TASKS_RETRIED,
    HEARTBEATS_SENT,
    HEARTBEATS_SEEN,
    AGENTS,
    AGENTS_MISTIMED,
    EVICTIONS,
    LEADS,
    ECHOES,
    QUEUES_SUSPECTED,
    POLICY_PROCESSES,
    REPLIES_DROPPED,
    PUBLISHES_REFUSED,
    PUBLISHES_RETURNED,
    RECONNECTS,
    PUBLISHING_BLOCKED,
    HELD_BYTES,
    QUEUES_HELD_BACK,
    CONTROL_DROPPED,
    SPANS_DROPPED,
    TRACES_LIMITED,
    LOOP_LAG,
    LOG_LINES_DROPPED,
    READY,
    COMPONENT_OK,
    POLICY_VERSION,
    POLICIES_INVALID,
)
