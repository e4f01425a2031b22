"""`maniple policy …`: show and change policies, while everything runs."""

import typer

from maniple_cli.commands.policy.changes import apply, delete, rollback
from maniple_cli.commands.policy.looks import diff, explain, get, history, list_
from maniple_cli.commands.policy.status import status

COMMANDS = (apply, get, list_, diff, history, rollback, delete, status, explain)


def build() -> typer.Typer:
    """Return the group of commands."""
    app = typer.Typer(no_args_is_help=True, help="Show and change policies while tasks run.")
    for command in COMMANDS:
        app.command(command.__name__.strip("_"))(command)
    return app
