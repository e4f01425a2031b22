"""Limits, breakers, canaries, and which policies are in force."""

from infra.grafana.model import Board, Panel, Row
from infra.grafana.queries import CAPABILITY, ENVIRONMENT, HERE, OF_ONE, failing, highest, rate

HELD = "not_due|rate_limited|bulkhead|circuit_open|undecided"

POLICIES = Board(
    "maniple-policies",
    "Maniple / Policies",
    "What policies decide, which are in force, and how canaries do.",
    (ENVIRONMENT, CAPABILITY),
    (
        Row(
            "Limits",
            (
                Panel(
                    "Decisions",
                    "ops",
                    "Tasks that a policy refused, held back or sent another way.",
                    {
                        "{{kind}}/{{name}} {{decision}}": rate(
                            "maniple_policy_decisions_total", "kind, name, decision"
                        )
                    },
                ),
                Panel(
                    "Refused by policies",
                    "ops",
                    "Tasks that ended rate_limited, circuit_open or overloaded.",
                    {
                        "{{code}}": rate(
                            "maniple_tasks_rejected_total",
                            "code",
                            f'{HERE}, code=~"rate_limited|circuit_open|overloaded"',
                        )
                    },
                    stacked=True,
                ),
                Panel(
                    "Made to wait by policies",
                    "ops",
                    "Tasks that were shaped or held: not due yet, a limit, a bulkhead, a breaker.",
                    {
                        "{{reason}}": rate(
                            "maniple_tasks_delayed_total",
                            "reason",
                            f'{HERE}, reason=~"{HELD}"',
                        )
                    },
                    stacked=True,
                ),
            ),
        ),
        Row(
            "Breakers",
            (
                Panel(
                    "Open",
                    "none",
                    "1 while a lane's breaker is open or lets a few try; `other` counts them.",
                    {"{{lane}}": highest("maniple_breaker_open", "lane")},
                    warn=1,
                ),
                Panel(
                    "Failing, by capability",
                    "percentunit",
                    "Share of the results that are failed: what breakers look at.",
                    {"{{capability}}": failing("capability")},
                    top=1,
                ),
            ),
        ),
        Row(
            "Canaries of $capability",
            (
                Panel(
                    "Ends by variant",
                    "ops",
                    "Results of each variant; the plain lane has none.",
                    {"@{{variant}}": rate("maniple_results_total", "variant", OF_ONE)},
                    stacked=True,
                ),
                Panel(
                    "Failing, by variant",
                    "percentunit",
                    "Share of each variant's results that are failed.",
                    {"@{{variant}}": failing("variant", OF_ONE)},
                    top=1,
                ),
                Panel(
                    "Copies dropped",
                    "ops",
                    "Copies for mirrors that no lane took in time; the tasks themselves ran.",
                    {"dropped": rate("maniple_mirrors_dropped_total")},
                ),
            ),
        ),
        Row(
            "In force",
            (
                Panel(
                    "Versions",
                    "none",
                    "The version of each policy; a step is a change.",
                    {"{{kind}}/{{name}}": highest("maniple_policy_version", "kind, name")},
                ),
                Panel(
                    "Processes",
                    "none",
                    "By whether they have what is in force; silent for 90 s is stale.",
                    {"{{state}}": highest("maniple_policy_processes", "state")},
                    stacked=True,
                ),
                Panel(
                    "Unusable",
                    "none",
                    "Policies that Consul holds and that cannot be used.",
                    {"unusable": f'max(maniple_policies_invalid{{{HERE}, service="policy"}})'},
                    warn=1,
                ),
            ),
        ),
    ),
)
