"""`maniple demo`: a cluster analyses the standard library, and every result is checked."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from maniple_cli.demo.run import Demo, DemoOptions
from maniple_cli.demo.screen import screen_for
from maniple_cli.demo.sources import standard_library
from maniple_cli.demo.summary import Summary
from maniple_cli.dev_cluster.errors import ServerUnreachable
from maniple_cli.output import ExitCode, JsonOption, complain, print_line, run


def demo(
    *,
    path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            resolve_path=True,
            help="Analyse the Python files in this folder instead of the standard library.",
        ),
    ] = None,
    agents: Annotated[int, typer.Option(min=1, help="How many agents to run.")] = 3,
    no_kill: Annotated[bool, typer.Option("--no-kill", help="Kill no agent.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Analyse every Python file of the standard library on a cluster of its own.

    When a third is done one agent is killed. At the end every result is compared with the same
    analysis made directly. Exit code 1 if anything is lost or wrong.
    """
    options = DemoOptions(path or standard_library(), agents=agents, kill=not no_kill)
    summary = run(_demonstrate(options, as_json=as_json))
    if summary is None:
        raise typer.Exit(ExitCode.UNREACHABLE)
    print_line(json.dumps(summary.as_dict()) if as_json else summary.last_line)
    raise typer.Exit(ExitCode.DONE if summary.good else ExitCode.FAILED)


async def _demonstrate(options: DemoOptions, *, as_json: bool) -> Summary | None:
    """Run the demonstration; None when a server that the environment names is unavailable."""
    console = Console(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    try:
        with screen_for(console) as screen:
            return await Demo(options, screen).run()
    except ServerUnreachable as error:
        complain(str(error))
        return None
