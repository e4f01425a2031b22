"""`maniple log-level`: how much processes log, changed while they run."""

import os
from typing import Annotated

import typer

from maniple.cli.output import (
    BrokerOption,
    ConsulOption,
    ExitCode,
    complain,
    local_cluster,
    operator_url,
    print_line,
    run,
)
from maniple.service.consul import Consul, ConsulRefused, ConsulUnavailable
from maniple.service.log_levels import ALL, LEVELS, PERIOD, key_of
from maniple.service.settings import environment_of

DEFAULT = "default"
CHOICES = (*LEVELS, DEFAULT)

LevelArgument = Annotated[str, typer.Argument(metavar="LEVEL", help=", ".join(CHOICES))]
TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help="An instance, a service (agent), or all.")
]


def log_level(
    level: LevelArgument,
    target: TargetArgument = ALL,
    *,
    broker_url: BrokerOption = None,
    consul_url: ConsulOption = None,
) -> None:
    """Let processes log from LEVEL on, also those that start later; 'default' takes that back."""
    if level not in CHOICES:
        raise typer.BadParameter(f"{level!r} is none of {', '.join(CHOICES)}", param_hint="LEVEL")
    raise typer.Exit(run(_set(broker_url, consul_url, level, target)))


async def _set(broker_url: str | None, consul_url: str | None, level: str, target: str) -> ExitCode:
    key = key_of(f"maniple/{environment_of(operator_url(broker_url))}", target)
    where = consul_url or local_cluster().consul_url
    consul = Consul(where, os.environ.get("MANIPLE_CONSUL_TOKEN"))
    try:
        if level == DEFAULT:
            await consul.kv_delete(key)
        else:
            await consul.kv_put(key, level.encode())
    except (ConsulUnavailable, ConsulRefused) as error:
        complain(str(error))
        return ExitCode.UNREACHABLE
    finally:
        consul.close()
    print_line(f"{target}: {level}, within {PERIOD:g} s")
    return ExitCode.DONE
