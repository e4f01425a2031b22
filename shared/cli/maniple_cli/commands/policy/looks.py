"""`maniple policy get`, `list`, `history`, `diff` and `explain`."""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from maniple_cli.commands.policy.common import (
    NamesArgument,
    ask_policy,
    claimed,
    lines_of,
    seconds_of,
    warn_of_invalid,
    which,
)
from maniple_cli.output import (
    BrokerOption,
    JsonOption,
    cells,
    complain,
    print_json,
    print_line,
)
from maniple_cli.tables import print_table
from maniple_policies import as_yaml, known_policy
from maniple_runtime.shown import shown

LabelsOption = Annotated[
    list[str] | None, typer.Option("--label", "-l", help="A label of the task, NAME=VALUE.")
]


def get(
    policy: NamesArgument, *, as_json: JsonOption = False, broker_url: BrokerOption = None
) -> None:
    """Print a policy as YAML that can be applied again; with --json, with its history."""
    found = ask_policy(broker_url, "get", which(policy))
    if as_json:
        print_json(found)
    else:
        print_line(as_yaml(known_policy(found["policy"])).rstrip())


def list_(*, as_json: JsonOption = False, broker_url: BrokerOption = None) -> None:
    """List the policies in force."""
    answer = ask_policy(broker_url, "list", {})
    found = answer["policies"]
    warn_of_invalid(answer)
    if as_json:
        print_json(found)
    elif not found:
        complain("no policies are in force")
    else:
        table = Table("policy", "version", "match", "rollout", "since", "by (claimed)", box=None,
                      pad_edge=False)  # fmt: skip
        for one in found:
            policy = one["policy"]
            row = (
                f"{policy['kind']}/{policy['name']}",
                policy["version"],
                _match(policy["match"]),
                _rollout(policy["rollout"]),
                seconds_of(one["at"]),
                one["author"],
            )
            table.add_row(*cells(*row))
        print_table(table)


def history(
    policy: NamesArgument, *, as_json: JsonOption = False, broker_url: BrokerOption = None
) -> None:
    """List all versions, the latest first: claimed author, time, reason, changes."""
    found = ask_policy(broker_url, "history", which(policy))
    if as_json:
        print_json(found)
        return
    for revision in found["revisions"]:
        gone = ", deleted" if revision["deleted"] else ""
        said = f": {shown(revision['reason'])}" if revision["reason"] else ""
        print_line(
            f"version {revision['policy']['version']}{gone}, {seconds_of(revision['at'])} "
            f"by {shown(claimed(revision['author']))}{said}"
        )
        for line in lines_of(revision["diff"])[2:]:
            print_line(f"  {line}")


def diff(
    policy: NamesArgument,
    *,
    before: Annotated[
        int | None, typer.Option("--from", min=1, help="Else the version before --to.")
    ] = None,
    after: Annotated[int | None, typer.Option("--to", min=1, help="Else the present one.")] = None,
    as_json: JsonOption = False,
    broker_url: BrokerOption = None,
) -> None:
    """Show the differences between two versions."""
    asked = {**which(policy), "before": before, "after": after}
    found = ask_policy(broker_url, "diff", asked)
    if as_json:
        print_json(found)
    elif found["diff"]:
        print_line(found["diff"].rstrip())
    else:
        complain("they say the same")


def explain(  # noqa: PLR0913 - a command's options
    *,
    capability: Annotated[str, typer.Option("--capability", "-c")],
    tenant: Annotated[str, typer.Option("--tenant", "-t")] = "default",
    label: LabelsOption = None,
    task: Annotated[
        str | None, typer.Option("--task", help="The task's id, on which rollouts depend.")
    ] = None,
    instance: Annotated[
        str | None,
        typer.Option("--instance", help="The instance name of the process that decides."),
    ] = None,
    region: Annotated[str, typer.Option("--region", help="The region of that process.")] = "",
    as_json: JsonOption = False,
    broker_url: BrokerOption = None,
) -> None:
    """Show which policies apply to a task, in which order, and why the others do not."""
    asked = {
        "capability": capability,
        "tenant": tenant,
        "labels": _labels(label or ()),
        "task": task,
        "instance": instance,
        "region": region,
    }
    found = ask_policy(broker_url, "explain", asked)["documents"]
    if as_json:
        print_json(found)
    elif not found:
        complain("no policies are in force")
    else:
        table = Table("policy", "version", "", "why", "says", box=None, pad_edge=False)
        for one in found:
            says = _short(one["spec"]) if one["verdict"] in {"applies", "partly"} else ""
            row = (one["policy"], one["version"], one["verdict"], one["reason"], says)
            table.add_row(*cells(*row))
        print_table(table)


def _labels(texts: Iterable[str]) -> dict[str, str]:
    labels = dict[str, str]()
    for text in texts:
        name, found, value = text.partition("=")
        if not found or not name:
            raise typer.BadParameter("a label is NAME=VALUE")
        if name in labels:
            raise typer.BadParameter(f"--label {name} is given twice")
        labels[name] = value
    return labels


def _match(match: Mapping[str, Any]) -> str:
    said = {**match, **match["labels"]}
    del said["labels"]
    return " ".join(f"{name}={glob}" for name, glob in said.items() if glob != "*") or "everything"


def _rollout(rollout: Mapping[str, Any] | None) -> str:
    return f"{rollout['percent']:g} % by {rollout['by']}" if rollout else ""


def _short(spec: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in spec.items()
        if value not in (None, [], False)
    )
