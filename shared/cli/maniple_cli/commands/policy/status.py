"""`maniple policy status`: which processes have which version."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from maniple_cli.commands.policy.common import ask_policy, warn_of_invalid
from maniple_cli.output import (
    BrokerOption,
    JsonOption,
    cells,
    complain,
    print_json,
    print_line,
)
from maniple_cli.tables import print_table

OLDER_PERIOD = 30.0  # of a policy service that does not tell it yet
COUNTS = ("have", "lag", "stale", "unknown")


def status(*, as_json: JsonOption = False, broker_url: BrokerOption = None) -> None:
    """Show how many processes have each version in force, and which do not."""
    found = ask_policy(broker_url, "status", {})
    if as_json:
        print_json(found)
        return
    warn_of_invalid(found)
    if not found["consul"]:
        complain("warning: the policy service has no Consul: nothing can be changed")
    if not found.get("current", True):
        complain(
            "warning: this policy service cannot read Consul: "
            f"it tells revision {found.get('revision')}, and there may be newer policies"
        )
    period = found.get("period", OLDER_PERIOD)
    if found["listening"] < period:
        complain(
            f"warning: this policy service listens for {found['listening']:g} s only; "
            f"every process reports within {period:g} s"
        )
    policies = Table("policy", "version", *COUNTS, box=None, pad_edge=False)
    for one in found["policies"]:
        policies.add_row(*cells(one["policy"], one["version"], *(one[name] for name in COUNTS)))
    if found["policies"]:
        print_table(policies)
    else:
        complain("no policies are in force")
    if found["processes"]:
        print_line("")
        processes = Table("process", "service", "state", "heard", "behind", box=None,
                          pad_edge=False)  # fmt: skip
        for one in found["processes"]:
            processes.add_row(*cells(*_row(one)))
        print_table(processes)


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    heard = "never" if one["heard"] is None else f"{one['heard']:.0f} s ago"
    behind = (
        f"{key} {'not known' if version is None else f'at {version}' if version else 'missing'}"
        for key, version in (one["behind"] or {}).items()
    )
    return one["instance"], one["service"], one["state"], heard, ", ".join(behind)
