"""Whether the cluster is well."""

from infra.grafana.model import Board, Panel, Row
from infra.grafana.queries import (
    ENVIRONMENT,
    HERE,
    LANES,
    failing,
    level,
    of_queues,
    processor_time,
    quantile,
    rate,
    resident_memory,
)

# Those of the broker are of no environment.
FIRING = (
    'count(ALERTS{alertstate="firing", alertname=~"Maniple.+", environment=~"$environment|"})'
    " or vector(0)"
)

OVERVIEW = Board(
    "maniple-overview",
    "Maniple / Overview",
    "Whether the cluster is well, and where to look if it is not.",
    (ENVIRONMENT,),
    (
        Row(
            "Now",
            (
                Panel(
                    "Submitted",
                    "ops",
                    "Tasks that dispatchers read from maniple.submit.",
                    {"now": rate("maniple_tasks_submitted_total")},
                    kind="stat",
                ),
                Panel(
                    "Ended",
                    "ops",
                    "Results that agents published, of whatever status.",
                    {"now": rate("maniple_results_total")},
                    kind="stat",
                ),
                Panel(
                    "Failing",
                    "percentunit",
                    "Share of the results that are failed, after all attempts.",
                    {"now": failing()},
                    kind="stat",
                    warn=0.05,
                ),
                Panel(
                    "Active agents",
                    "none",
                    "Agents that the registries call active.",
                    {"now": f'max(maniple_agents{{{HERE}, state="active"}})'},
                    kind="stat",
                ),
                Panel(
                    "Waiting in lanes",
                    "short",
                    "Messages (bundles of tasks) that no agent has taken yet.",
                    {"now": of_queues("messages_ready", LANES)},
                    kind="stat",
                ),
                Panel(
                    "Alerts",
                    "none",
                    "Alerts of ours that fire now; docs/runbook.md has a section for each.",
                    {"now": FIRING},
                    kind="stat",
                    warn=1,
                ),
            ),
        ),
        Row(
            "Tasks",
            (
                Panel(
                    "In and out",
                    "ops",
                    "Submitted, accepted by a lane, and ended. Where they part, work waits.",
                    {
                        "submitted": rate("maniple_tasks_submitted_total"),
                        "accepted": rate("maniple_tasks_accepted_total"),
                        "ended": rate("maniple_results_total"),
                    },
                ),
                Panel(
                    "Ends by status",
                    "ops",
                    "Results of agents by their status.",
                    {"{{status}}": rate("maniple_results_total", "status")},
                    stacked=True,
                ),
                Panel(
                    "Refused, by code",
                    "ops",
                    "Tasks that dispatchers ended; docs/messages.md explains the codes.",
                    {"{{code}}": rate("maniple_tasks_rejected_total", "code")},
                    stacked=True,
                ),
                Panel(
                    "Sent to wait, by reason",
                    "ops",
                    "Tasks that went to maniple.delay: no agent, a full lane, a limit, a breaker.",
                    {"{{reason}}": rate("maniple_tasks_delayed_total", "reason")},
                    stacked=True,
                ),
                Panel(
                    "Failing, by capability",
                    "percentunit",
                    "Share of the results of each capability that are failed.",
                    {"{{capability}}": failing("capability")},
                    top=1,
                ),
                Panel(
                    "Ends by capability",
                    "ops",
                    "Results of agents by capability.",
                    {"{{capability}}": rate("maniple_results_total", "capability")},
                    stacked=True,
                ),
            ),
        ),
        Row(
            "Times",
            (
                Panel(
                    "Time in the lane, 99 %",
                    "s",
                    "From dispatch to the start of an attempt, by capability.",
                    {"{{capability}}": quantile(0.99, "maniple_queue_seconds", "capability")},
                ),
                Panel(
                    "Run time, 99 %",
                    "s",
                    "Of one attempt, by capability.",
                    {"{{capability}}": quantile(0.99, "maniple_run_seconds", "capability")},
                ),
                Panel(
                    "Wait for a dispatcher",
                    "s",
                    "Of the last message of maniple.submit, as fast as they read now.",
                    {"the last submission": f"maniple:submit_wait:seconds{{{HERE}}}"},
                ),
            ),
        ),
        Row(
            "Processes",
            (
                Panel(
                    "Processes",
                    "none",
                    "Processes that answer, by service.",
                    {"{{service}}": f"maniple:processes:count{{{HERE}}}"},
                ),
                Panel(
                    "Ready",
                    "percentunit",
                    "Share of the processes of a service that take work.",
                    {"{{service}}": f"avg by (service) (maniple_ready{{{HERE}}})"},
                    top=1,
                ),
                Panel(
                    "Components that are not well",
                    "none",
                    "What processes do without, as their /health says it.",
                    {"{{component}}": f"sum by (component) (1 - maniple_component_ok{{{HERE}}})"},
                    warn=1,
                ),
                Panel(
                    "Processor time",
                    "none",
                    "Cores that each process uses.",
                    {"{{instance}}": processor_time("service, instance")},
                ),
                Panel(
                    "Memory",
                    "bytes",
                    "Resident memory of each process.",
                    {"{{instance}}": resident_memory("service, instance")},
                ),
                Panel(
                    "Loop lag",
                    "s",
                    "How late the loop of a process was, at worst; 1 s endangers heartbeats.",
                    {"{{instance}}": level("maniple_loop_lag_seconds", "instance")},
                    warn=1,
                ),
            ),
        ),
    ),
)
