"""What all commands share: options, output, and how they end."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Coroutine, Iterable
from enum import IntEnum
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from maniple.clusters import KnownCluster, find_cluster
from maniple.errors import BrokerUnavailable, ConfigurationError, InvalidMessage, ManipleError
from maniple.urls import check_broker_url, check_http_url
from maniple_runtime.event_loop import new_event_loop
from maniple_runtime.shown import shown, shown_json

T = TypeVar("T")


class ExitCode(IntEnum):
    """The exit codes of the program."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


def _broker_url(value: str | None) -> str | None:
    return _checked(check_broker_url, value)


def _http_url(value: str | None) -> str | None:
    return _checked(check_http_url, value)


def _checked(check: Callable[[str], object], value: str | None) -> str | None:
    try:
        if value is not None:
            check(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return value


BrokerOption = Annotated[
    str | None,
    typer.Option(
        "--broker-url",
        envvar="MANIPLE_BROKER_URL",
        show_envvar=True,
        callback=_broker_url,
        help="RabbitMQ's URL, whose vhost is the environment; else the running 'maniple dev'.",
    ),
]
ConsulOption = Annotated[
    str | None,
    typer.Option(
        "--consul-url",
        envvar="MANIPLE_CONSUL_URL",
        show_envvar=True,
        callback=_http_url,
        help="Consul's URL; else the running 'maniple dev'.",
    ),
]
ManagementOption = Annotated[
    str | None,
    typer.Option(
        "--management-url",
        envvar="MANIPLE_MANAGEMENT_URL",
        show_envvar=True,
        callback=_http_url,
        help="RabbitMQ's management API, http://user:password@host:15672.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def local_cluster() -> KnownCluster:
    """Return the running `maniple dev`. Raises `BrokerUnavailable` when there is none."""
    if (cluster := find_cluster()) is None:
        raise BrokerUnavailable(
            "no cluster: give --broker-url, set MANIPLE_BROKER_URL, or start one with 'maniple dev'"
        )
    return cluster


def operator_url(broker_url: str | None) -> str:
    """Return the broker to use: the given one, else the local cluster's, as its operator."""
    return broker_url or local_cluster().operator_url


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command to its end. Known errors end the program with one line and their exit code."""
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except BrokenPipeError:  # whoever read our output has gone
        raise typer.Exit(ExitCode.FAILED) from None
    except (ManipleError, OSError) as error:
        complain(str(error) or repr(error))
        raise typer.Exit(_code(error)) from error


def _code(error: Exception) -> ExitCode:
    if isinstance(error, BrokerUnavailable):
        return ExitCode.UNREACHABLE
    if isinstance(error, ConfigurationError | InvalidMessage):
        return ExitCode.USAGE
    return ExitCode.FAILED


def why(error: Exception) -> str:
    """Return why a file cannot be used, with its name."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def complain(message: str) -> None:
    """Print what is wrong, in one line on standard error, if that is possible."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"maniple: {shown(' '.join(message.split()))}\n")


def explain(lines: Iterable[str]) -> None:
    """Print more about an error, below it; the lines keep their indentation."""
    with contextlib.suppress(OSError):
        for line in lines:
            sys.stderr.write(f"  {line}\n")


def print_line(text: str) -> None:
    """Print our own text, perhaps in several lines; text from others in it must be `shown`."""
    lines = map(shown, text.split("\n"))
    sys.stdout.write("\n".join(lines) + "\n")


def print_json(value: Any) -> None:
    """Print JSON, for programs."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    sys.stdout.write(f"{shown_json(text)}\n")


def print_bytes(line: bytes) -> None:
    """Print a line of JSON that is already encoded: byte for byte, unless to a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(shown_json(line.decode()) + "\n")
        return
    with contextlib.suppress(AttributeError):  # a test's stand-in for standard output
        sys.stdout.buffer.write(line + b"\n")
        return
    sys.stdout.write(line.decode() + "\n")


def console() -> Console:
    """Return a console for standard output, plain unless it is a terminal."""
    soft_wrap = not sys.stdout.isatty()
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


def cells(*values: object) -> tuple[Text, ...]:
    """Return a row of a table; text from others is neither markup nor control characters."""
    return tuple(Text(shown(value)) for value in values)


def error_console() -> Console:
    """Return a console for progress bars, on standard error."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)
