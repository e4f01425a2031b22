"""`maniple log-level`: change how much processes log, while they run."""

from typing import Annotated

import typer

from maniple.errors import ConfigurationError
from maniple_cli.consul_access import SERVICES, consul_at, listed
from maniple_cli.output import (
    BrokerOption,
    ConsulOption,
    ExitCode,
    complain,
    local_cluster,
    operator_url,
    print_line,
    run,
)
from maniple_runtime.consul.client import Consul, ConsulRefused, ConsulUnavailable
from maniple_runtime.log_levels import ALL, LEVELS, PAUSE, key_of
from maniple_runtime.settings import environment_of

DEFAULT = "default"
CHOICES = (*LEVELS, DEFAULT)
SHOWN = 10  # instances that a complaint names

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
    """Set the log level of processes, also of those that start later; 'default' undoes it."""
    if level not in CHOICES:
        raise typer.BadParameter(f"{level!r} is none of {', '.join(CHOICES)}", param_hint="LEVEL")
    raise typer.Exit(run(_set(broker_url, consul_url, level, target)))


async def _set(broker_url: str | None, consul_url: str | None, level: str, target: str) -> ExitCode:
    environment = environment_of(operator_url(broker_url))
    key = key_of(f"maniple/{environment}", target)
    consul = consul_at(consul_url or local_cluster().consul_url)
    try:
        if level == DEFAULT:  # also of who has gone
            await consul.kv_delete(key)
        else:
            await _check(consul, target, environment)
            await consul.kv_put(key, level.encode())
    except (ConsulUnavailable, ConsulRefused) as error:
        complain(str(error))
        return ExitCode.UNREACHABLE
    finally:
        consul.close()
    print_line(f"{target}: {level}, within {PAUSE:g} s")
    return ExitCode.DONE


async def _check(consul: Consul, target: str, environment: str) -> None:
    """Raise `ConfigurationError` for a target that no process follows."""
    if target in {ALL, *SERVICES}:
        return
    found = [one.id for name in SERVICES for one in await listed(consul, name, environment)]
    if target not in found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ConfigurationError(
            f"nobody is called {target!r} in {environment}: it takes {ALL}, a service "
            f"({', '.join(SERVICES)}) or an instance that is in Consul "
            f"({', '.join(found[:SHOWN]) or 'there is none'}{more})"
        )
