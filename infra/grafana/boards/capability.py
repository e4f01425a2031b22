"""One capability: rate, errors, duration, queue, agents."""

from infra.grafana.model import Board, Panel, Row
from infra.grafana.queries import (
    CAPABILITY,
    ENVIRONMENT,
    LANES_OF_ONE,
    OF_ONE,
    failing,
    of_queues,
    quantiles,
    rate,
)

ONE_CAPABILITY = Board(
    "maniple-capability",
    "Maniple / One capability",
    "Rate, errors, duration, time in the queue and agents of one capability.",
    (ENVIRONMENT, CAPABILITY),
    (
        Row(
            "Rate and errors",
            (
                Panel(
                    "Accepted",
                    "ops",
                    "Tasks that the capability's lanes have confirmed.",
                    {"accepted": rate("maniple_tasks_accepted_total", where=OF_ONE)},
                ),
                Panel(
                    "Ends by status",
                    "ops",
                    "Results by their status.",
                    {"{{status}}": rate("maniple_results_total", "status", OF_ONE)},
                    stacked=True,
                ),
                Panel(
                    "Failing",
                    "percentunit",
                    "Share of the results that are failed, by variant; the plain lane has none.",
                    {"@{{variant}}": failing("variant", OF_ONE)},
                    top=1,
                ),
                Panel(
                    "Tried again",
                    "ops",
                    "Attempts that failed and are repeated, as the retry policy says.",
                    {"again": rate("maniple_tasks_retried_total", where=OF_ONE)},
                ),
            ),
        ),
        Row(
            "Duration",
            (
                Panel(
                    "Run time",
                    "s",
                    "Of one attempt; the points are traces.",
                    quantiles("maniple_run_seconds", OF_ONE),
                    exemplars=True,
                ),
                Panel(
                    "Time in the queue",
                    "s",
                    "From dispatch to the start of an attempt; the points are traces.",
                    quantiles("maniple_queue_seconds", OF_ONE),
                    exemplars=True,
                ),
                Panel(
                    "Running",
                    "none",
                    "Attempts under way on average: their rate by their run time.",
                    {"running": rate("maniple_run_seconds_sum", where=OF_ONE)},
                ),
            ),
        ),
        Row(
            "Lanes and agents",
            (
                Panel(
                    "Waiting",
                    "short",
                    "Messages in the capability's lanes that no agent has taken.",
                    {"{{queue}}": of_queues("messages_ready", LANES_OF_ONE, "queue")},
                ),
                Panel(
                    "Readers",
                    "none",
                    "Agents that read each of its lanes.",
                    {"{{queue}}": of_queues("consumers", LANES_OF_ONE, "queue")},
                ),
                Panel(
                    "Ends by agent",
                    "ops",
                    "Which agent has run how much of it.",
                    {"{{instance}}": rate("maniple_results_total", "instance", OF_ONE)},
                    stacked=True,
                ),
            ),
        ),
    ),
)
