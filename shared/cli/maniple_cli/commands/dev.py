"""`maniple dev`: a whole cluster on this machine, until Ctrl-C."""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.live import Live

from maniple.clusters import forget_run, run_file
from maniple.urls import without_password
from maniple_cli.dev_cluster.child import Death
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.dev_cluster.errors import LocalError, ServerUnreachable, WrongVariable
from maniple_cli.dev_cluster.process_status import ProcessStatus, status_of, table_of
from maniple_runtime.shown import shown

DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3
TICK_SECONDS = 1.0
ECHO_SECONDS = 2.0


def dev(  # noqa: PLR0913 - each is an option of the command
    *,
    agents: Annotated[int, typer.Option(min=0, help="How many agents to run.")] = 3,
    dispatchers: Annotated[int, typer.Option(min=0, help="How many dispatchers to run.")] = 1,
    handlers: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="Module with tasks for the agents; repeatable."),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write URLs and processes here when all is ready."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep data and logs here instead of a temporary folder."),
    ] = None,
    no_restart: Annotated[
        bool, typer.Option("--no-restart", help="Do not restart processes that die.")
    ] = False,
) -> None:
    """Run a whole cluster on this machine, with a RabbitMQ and a Consul of its own.

    Ctrl-C ends it. MANIPLE_BROKER_URL and MANIPLE_CONSUL_URL use existing servers instead.
    """
    _check_modules(handlers or [])
    if ready_file is not None:
        _make_way(ready_file)
    options = ClusterOptions(
        agents=agents,
        dispatchers=dispatchers,
        handlers=tuple(handlers or ()),
        data_dir=data_dir,
        restart=not no_restart,
    )
    raise typer.Exit(asyncio.run(run(options, DevScreen(), ready_file=ready_file)))


def _make_way(ready_file: Path) -> None:
    try:
        ready_file.unlink(missing_ok=True)
    except OSError as error:
        said = f"{ready_file}: {error.strerror}"
        raise typer.BadParameter(said, param_hint="--ready-file") from error


def _check_modules(modules: list[str]) -> None:
    """Report a mistyped module at once, not after half a minute of starting."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for module in modules:
        if module.endswith(".py") and Path(module).is_file():
            continue
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise typer.BadParameter(
                f"there is no module or file {module!r} here or on the Python path",
                param_hint="--handlers",
            )


class DevScreen:
    """Output of `maniple dev`: a live table on a terminal, plain lines anywhere else."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True, markup=False)
        self._live: Live | None = None
        self._seen: dict[str, tuple[int, str]] = {}

    @property
    def is_terminal(self) -> bool:
        """Whether output goes to a terminal, and so into no file or log."""
        return self._console.is_terminal

    def say(self, text: str) -> None:
        """Print a line; above the table if there is one."""
        self._console.print(text)

    def died(self, death: Death) -> None:
        """Report a death, with the last lines of the log."""
        again = "not restarted"
        if death.restart_in is not None:
            again = f"restarting in {death.restart_in:.1f} s"
        self.say(f"{death.name} (pid {death.pid}) died: {death.cause}; {again}. Its last lines:")
        self.say("\n".join(f"    {shown(line)}" for line in death.tail.split("\n")))

    def show(self, rows: list[ProcessStatus]) -> None:
        """Show the state of the processes: as a table, or changes as lines."""
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False)
                self._live.start()
            self._live.update(table_of(rows), refresh=True)
            return
        for row in rows:
            if self._seen.get(row.name) != (row.pid, row.state):
                self.say(f"{row.name} {row.state}, pid {row.pid} {row.url}".rstrip())
                self._seen[row.name] = (row.pid, row.state)

    def leave_table(self) -> None:
        """Leave the last table where it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None


async def run(options: ClusterOptions, screen: DevScreen, *, ready_file: Path | None) -> int:
    """Run a cluster until SIGINT, SIGTERM or SIGHUP and return the exit code.

    A later signal ends it at once; the reaper then cleans up. Some senders signal both the process
    group and, through `uv run`, the process again: such a repetition does not count.
    """
    work = asyncio.create_task(_serve(options, screen, ready_file))
    loop = asyncio.get_running_loop()
    cancel = _canceller(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cancel)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as with `nohup`
        loop.add_signal_handler(signal.SIGHUP, cancel)
    try:
        return await work
    except asyncio.CancelledError:
        return DONE
    except LocalError as error:
        screen.say(f"maniple dev: {error}")
        if isinstance(error, WrongVariable):
            return USAGE
        return UNREACHABLE if isinstance(error, ServerUnreachable) else FAILED
    finally:
        screen.leave_table()


def _canceller(work: asyncio.Task[int]) -> Callable[[], None]:
    last = float("-inf")

    def cancel() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= ECHO_SECONDS:
            last = now
            work.cancel()

    return cancel


async def _serve(options: ClusterOptions, screen: DevScreen, ready_file: Path | None) -> int:
    screen.say(
        f"starting RabbitMQ, Consul, registry, policy, {options.dispatchers} dispatcher(s) "
        f"and {options.agents} agent(s)"
    )
    cluster = Cluster(options, on_death=screen.died)
    try:
        async with cluster:
            screen.say(addresses(cluster.ready_info(), secret=not screen.is_terminal))
            await _watch(cluster, screen, ready_file)
    except asyncio.CancelledError:
        screen.leave_table()
        screen.say("stopped")
        raise
    finally:
        if cluster.kept:
            screen.say(f"something failed: the logs are kept in {cluster.kept}")
    return DONE


async def _watch(cluster: Cluster, screen: DevScreen, ready_file: Path | None) -> None:
    """Show the cluster and keep the ready file and the run file up to date, until cancelled."""
    files = [run_file(), *([ready_file] if ready_file is not None else [])]
    written: dict[str, Any] = {}
    try:
        while True:
            info = cluster.ready_info() | {"pid": os.getpid()}
            if info != written:
                for file in files:
                    write_ready_file(file, info)
                written = info
            screen.show(await status_of(cluster))
            await asyncio.sleep(TICK_SECONDS)
    except asyncio.CancelledError:
        screen.leave_table()
        screen.say("draining")
        raise
    finally:
        forget_run()


def write_ready_file(path: Path, info: dict[str, Any]) -> None:
    """Write the file atomically, readable by its owner only: it contains passwords."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(info, file, indent=2)
        draft.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


def addresses(info: Mapping[str, Any], *, secret: bool) -> str:
    """Return the addresses in a ready file as text; without passwords where they are `secret`."""

    def told(url: str) -> str:
        return without_password(url) if secret else url

    lines = ["everything is ready"]
    if info["management_url"]:
        parts = urlsplit(info["management_url"])
        where = f"{parts.scheme}://{parts.hostname}:{parts.port}"
        login = f"user {parts.username}" + ("" if secret else f", password {parts.password}")
        lines.append(f"  RabbitMQ    {where}  ({login})")
    lines += [
        f"  Consul      {info['consul_url']}/ui",
        f"  submit to   {told(info['broker_url'])}",
        f"  maniple     MANIPLE_BROKER_URL={told(info['operator_url'])}",
        f"  logs        {info['data_dir']}",
    ]
    if secret:
        lines.append(f"  passwords   in {run_file()}, for you alone")
    return "\n".join(lines)
