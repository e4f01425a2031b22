"""What the policy commands share: a policy's name, the author of a change, requests."""

import getpass
import socket
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from maniple_cli.control import ask
from maniple_cli.output import complain, operator_url, run
from maniple_policies import KINDS

CONSUL = "consul"
PATIENCE = 30.0  # seconds: a large folder is several transactions, and many events

NamesArgument = Annotated[
    list[str], typer.Argument(metavar="KIND/NAME", help="Also as two words: KIND NAME.")
]
ReasonOption = Annotated[
    str, typer.Option("--reason", "-r", help="The reason, kept in the history.")
]
AuthorOption = Annotated[
    str | None, typer.Option("--author", help="The author, kept in the history; else USER@HOST.")
]
ExpectOption = Annotated[
    int | None,
    typer.Option("--expect", min=0, help="Only if this is its version; 0: if it does not exist."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would change, and what that affects.")
]


def which(names: list[str]) -> dict[str, str]:
    """Parse `kind/name` or two words. Raises `typer.BadParameter`."""
    words = names[0].split("/", 1) if len(names) == 1 else names
    if len(words) != 2:  # noqa: PLR2004 - a kind and a name
        raise typer.BadParameter("name a policy as KIND/NAME")
    kind, name = words
    if kind not in KINDS:
        raise typer.BadParameter(f"there is no kind {kind!r}; there is {', '.join(KINDS)}")
    return {"kind": kind, "name": name}


def author(given: str | None) -> str:
    """Return the author of a change: the given one, else USER@HOST. Raises `typer.BadParameter`."""
    if given is not None:
        if not given.strip():
            raise typer.BadParameter("must not be empty", param_hint="--author")
        return given
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def claimed(author: str) -> str:
    """Return an author as shown, marked as a claim: the sender of a change may write any name.

    Only an edit in Consul was observed by the service itself.
    """
    return author if author == CONSUL else f"{author} (as claimed)"


def ask_policy(broker_url: str | None, op: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Send a request to the policy service; an error ends the program with its exit code."""

    async def asked() -> dict[str, Any]:
        return await ask(operator_url(broker_url), "policy", f"policy.{op}", body, PATIENCE)

    return run(asked())


def warn_of_invalid(found: Mapping[str, Any]) -> None:
    """Print what Consul holds that is not in force, if the policy service reports it."""
    for key, reason in found.get("invalid", {}).items():
        complain(
            f"warning: in Consul, {key} is not usable: {reason}; apply a right version with "
            "'maniple policy apply', the last good one stays"
        )


def lines_of(text: str) -> list[str]:
    """Return the lines of a diff, each as one line whatever characters it contains."""
    return text.rstrip("\n").split("\n") if text else []


def seconds_of(time: str) -> str:
    """Return a time without fractions of a second."""
    return time.replace("T", " ").partition(".")[0].removesuffix("Z")
