"""The fleet and each agent."""

from infra.grafana.model import Board, Panel, Row
from infra.grafana.queries import (
    AN_AGENT,
    ENVIRONMENT,
    HERE,
    highest,
    level,
    processor_time,
    rate,
    resident_memory,
    total,
)

AGENTS = Board(
    "maniple-agents",
    "Maniple / Agents",
    "The fleet as the registries see it, and what each agent does.",
    (ENVIRONMENT,),
    (
        Row(
            "Fleet",
            (
                Panel(
                    "Agents by state",
                    "none",
                    "As the registries see them; docs/states/agent.md explains the states.",
                    {"{{state}}": highest("maniple_agents", "state")},
                ),
                Panel(
                    "Declared failed",
                    "none",
                    "Agents failed in an hour: silent, without work (zombie) or replaced.",
                    {
                        "{{reason}}": total(
                            f"increase(maniple_evictions_total{{{HERE}}}[1h])", "reason"
                        )
                    },
                ),
                Panel(
                    "Heartbeats",
                    "cps",
                    "Confirmed by the broker at the agents, and read by each registry.",
                    {
                        "sent": rate("maniple_heartbeats_sent_total"),
                        "{{instance}}": rate("maniple_heartbeats_seen_total", "instance"),
                    },
                ),
                Panel(
                    "Leader",
                    "none",
                    "1 at the registry that leads.",
                    {
                        "{{instance}}": level(
                            "maniple_leads", "instance", where=f'{HERE}, service="registry"'
                        )
                    },
                    stacked=True,
                ),
                Panel(
                    "Lanes under suspicion",
                    "none",
                    "How often a lane's queue was suspected because all of its agents starved.",
                    {"suspected": f"sum(increase(maniple_queues_suspected_total{{{HERE}}}[1h]))"},
                    warn=1,
                ),
            ),
        ),
        Row(
            "Each agent",
            (
                Panel(
                    "Running",
                    "none",
                    "Tasks that run, by agent.",
                    {"{{instance}}": level("maniple_in_flight", "instance")},
                    stacked=True,
                ),
                Panel(
                    "Running, by executor",
                    "none",
                    "On the loop, in threads, in processes.",
                    {"{{executor}}": level("maniple_in_flight", "executor")},
                    stacked=True,
                ),
                Panel(
                    "Held",
                    "none",
                    "Tasks received and not started; they are handed back after a second.",
                    {"{{instance}}": level("maniple_held", "instance", AN_AGENT)},
                    stacked=True,
                ),
                Panel(
                    "Ends",
                    "ops",
                    "Results by agent.",
                    {"{{instance}}": rate("maniple_results_total", "instance")},
                    stacked=True,
                ),
                Panel(
                    "Handed back",
                    "ops",
                    "Tasks returned to their lanes, by reason.",
                    {"{{reason}}": rate("maniple_handed_back_total", "reason")},
                ),
                Panel(
                    "Tried again",
                    "ops",
                    "Attempts that failed and are repeated, by capability.",
                    {"{{capability}}": rate("maniple_tasks_retried_total", "capability")},
                ),
                Panel(
                    "Loop lag",
                    "s",
                    "How late the loop of an agent's connections was, at worst.",
                    {"{{instance}}": level("maniple_loop_lag_seconds", "instance", AN_AGENT)},
                    warn=1,
                ),
                Panel(
                    "Processor time",
                    "none",
                    "Cores that each agent uses, without its worker processes.",
                    {"{{instance}}": processor_time("instance", AN_AGENT)},
                ),
                Panel(
                    "Memory",
                    "bytes",
                    "Resident memory of each agent, without its worker processes.",
                    {"{{instance}}": resident_memory("instance", AN_AGENT)},
                ),
            ),
        ),
    ),
)
