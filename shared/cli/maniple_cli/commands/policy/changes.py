"""`maniple policy apply`, `rollback` and `delete`."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from maniple_cli.commands.policy.common import (
    AuthorOption,
    DryRunOption,
    ExpectOption,
    NamesArgument,
    ReasonOption,
    ask_policy,
    author,
    lines_of,
    which,
)
from maniple_cli.commands.policy.files import Given, WrongFiles, read_all
from maniple_cli.output import (
    BrokerOption,
    ExitCode,
    JsonOption,
    complain,
    print_json,
    print_line,
)
from maniple_policies import readable
from maniple_runtime.shown import shown

SourcesArgument = Annotated[
    list[str], typer.Argument(metavar="FILE|FOLDER|-", help="YAML or JSON; - is standard input.")
]
ToOption = Annotated[int, typer.Option("--to", min=1, help="The version to go back to.")]


def apply(  # noqa: PLR0913 - a command's options
    sources: SourcesArgument,
    *,
    dry_run: DryRunOption = False,
    reason: ReasonOption = "",
    expect: ExpectOption = None,
    by: AuthorOption = None,
    as_json: JsonOption = False,
    broker_url: BrokerOption = None,
) -> None:
    """Store the documents of files and folders: all of them, or none if one is wrong."""
    given = _read(sources)
    if expect is not None and len(given) > 1:
        raise typer.BadParameter("--expect is for a single document")
    answer = ask_policy(
        broker_url,
        "apply_all",
        {
            "documents": [readable(one.policy) for one in given],
            **_how(by, reason, expect, dry_run=dry_run),
        },
    )
    _tell(answer["applied"], answer, as_json=as_json)


def rollback(  # noqa: PLR0913 - a command's options
    policy: NamesArgument,
    *,
    to: ToOption,
    dry_run: DryRunOption = False,
    reason: ReasonOption = "",
    expect: ExpectOption = None,
    by: AuthorOption = None,
    as_json: JsonOption = False,
    broker_url: BrokerOption = None,
) -> None:
    """Store an older version's content as a new version; also of a deleted policy."""
    how = _how(by, reason, expect, dry_run=dry_run)
    answer = ask_policy(broker_url, "rollback", {**which(policy), "to": to, **how})
    _tell([answer], answer, as_json=as_json)


def delete(  # noqa: PLR0913 - a command's options
    policy: NamesArgument,
    *,
    dry_run: DryRunOption = False,
    reason: ReasonOption = "",
    expect: ExpectOption = None,
    by: AuthorOption = None,
    as_json: JsonOption = False,
    broker_url: BrokerOption = None,
) -> None:
    """Delete a policy; its history stays, and a rollback restores it."""
    how = _how(by, reason, expect, dry_run=dry_run)
    answer = ask_policy(broker_url, "delete", {**which(policy), **how})
    _tell([answer], answer, as_json=as_json)


def _how(by: str | None, reason: str, expect: int | None, *, dry_run: bool) -> dict[str, Any]:
    """Return the fields common to all requests for a change."""
    return {"author": author(by), "reason": reason, "expect": expect, "dry_run": dry_run}


def _read(sources: list[str]) -> list[Given]:
    try:
        return read_all(sources)
    except WrongFiles as error:
        for problem in error.problems:
            complain(problem)
        raise typer.Exit(ExitCode.USAGE) from error
    except OSError as error:
        complain(str(error))
        raise typer.Exit(ExitCode.FAILED) from error


def _tell(
    changes: Iterable[Mapping[str, Any]], answer: Mapping[str, Any], *, as_json: bool
) -> None:
    for change in changes:
        key = _key(change)
        for warning in change["warnings"]:
            complain(f"warning: {key}: {warning}")
        if not as_json:
            _show(key, change)
    if as_json:
        print_json(answer)


def _key(change: Mapping[str, Any]) -> str:
    return f"{change['policy']['kind']}/{change['policy']['name']}"


def _show(key: str, change: Mapping[str, Any]) -> None:
    version = change["policy"]["version"]
    if not change["changed"]:
        print_line(f"{key}: unchanged at version {version}")
        return
    done = "would become" if change["dry_run"] else "is now"
    print_line(f"{key}: {done} version {version}{', deleted' if change['deleted'] else ''}")
    if not change["dry_run"]:
        return
    for line in lines_of(change["diff"]):
        print_line(f"  {line}")
    if change["touches"] is None:
        print_line("  what it touches is not known: no registry has answered")
        return
    touched = ", ".join(f"{shown(name)} ({agents})" for name, agents in change["touches"].items())
    print_line(f"  touches capabilities (agents): {touched or 'none'}")
