"""`maniple`: the command line."""

import logging
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from maniple_cli.commands import policy
from maniple_cli.commands.agents import agents
from maniple_cli.commands.asyncapi import asyncapi
from maniple_cli.commands.demo import demo
from maniple_cli.commands.dev import dev
from maniple_cli.commands.doctor import doctor
from maniple_cli.commands.drain import drain
from maniple_cli.commands.log_level import log_level
from maniple_cli.commands.submit import submit
from maniple_cli.output import ExitCode, complain, print_line
from maniple_runtime.descriptors import STANDARD, discard, open_missing

_, STDOUT, STDERR = STANDARD
COMMANDS = (dev, demo, submit, agents, doctor, log_level, asyncapi)
AGENT_COMMANDS = (drain,)


def build() -> typer.Typer:
    """Return the program with all its commands."""
    app = typer.Typer(
        name="maniple",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_program)
    for command in COMMANDS:
        app.command()(command)
    agent = typer.Typer(no_args_is_help=True, help="Commands for a single agent.")
    for agent_command in AGENT_COMMANDS:
        agent.command()(agent_command)
    app.add_typer(agent, name="agent")
    app.add_typer(policy.build(), name="policy")
    return app


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - how typer calls it
    if wanted:
        print_line(f"maniple {version('maniple')}")
        raise typer.Exit


def _program(
    *,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Run tasks on a cluster of agents, over RabbitMQ and Consul.

    Exit codes: 0 done, 1 a task or check failed, 2 wrong usage, 3 the cluster cannot be reached.
    """


def main() -> None:
    """Run the program; raises `SystemExit` with its exit code."""
    open_missing()
    # What it logs while connecting, the commands say in a line of their own.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    sys.exit(_written(_run()))


def _run() -> int | str | None:
    try:
        build()()
    except SystemExit as ended:
        return ended.code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.FAILED
    except OSError as error:  # standard output does not take what is printed
        complain(str(error))
        return ExitCode.FAILED
    return ExitCode.DONE


def _written(code: int | str | None) -> int | str | None:
    """Return the exit code once all output is written, or cannot be."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard(STDOUT)
        if not isinstance(error, BrokenPipeError) and not code:
            complain(f"standard output: {error.strerror}")
        code = code or ExitCode.FAILED
    try:
        sys.stderr.flush()
    except OSError:
        discard(STDERR)
    return code
