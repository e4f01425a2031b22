"""Walk one task from publish to result: the files of ours it goes through, and how deep it calls.

An agent, a dispatcher, a registry and a policy service run in this process, on a RabbitMQ and a
Consul that are started for it, and a client submits tasks one by one. What runs from the submission
to the result, in most of the rounds, and not as well while nobody submits anything, was caused by
the task: whoever wants to follow one opens those files. Then the same under a rate limit, which is
this one dispatcher's own: how several share it is not walked. A chain is what calls each other of
our functions without waiting in between. A function that also runs in the quiet counts for nothing,
nor does its file if no other of it ran.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

from rich.console import Console
from rich.table import Table

from maniple import Client, connect
from maniple.errors import ManipleError
from maniple_agent import wiring as agent
from maniple_agent.settings import AgentSettings
from maniple_cli.control import ask
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_dispatcher import wiring as dispatcher
from maniple_dispatcher.settings import DispatcherSettings
from maniple_policy import wiring as policy
from maniple_policy.settings import PolicySettings
from maniple_registry import wiring as registry
from maniple_registry.settings import RegistrySettings
from maniple_runtime.event_loop import new_event_loop
from maniple_runtime.process import running
from maniple_runtime.runtime import Runtime
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.telemetry import configure_logging
from walk_recorder import Ran, Recorder, Walk, is_below, walk_of

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = (ROOT / "shared", ROOT / "services")
HANDLER = """
from maniple import task

@task("walk.double")
async def double(number: int) -> int:
    return 2 * number
"""
LIMIT = {
    "kind": "rate_limit",
    "name": "walk",
    "match": {"capability": "walk.double"},
    "spec": {"limit": 1000, "period": 1, "over": "reject"},
}
LIMIT_KEY = "rate_limit/walk"
SETTLING = 0.2  # seconds after a result, in which what came of its task is acknowledged
WAIT = 30.0  # seconds for whatever should take less than one
WIDTH = 120  # characters of a line where there is no terminal
DONE, FAILED = 0, 1


class Inside:
    """The cluster in this process, and a client."""

    def __init__(self, cluster: Cluster, client: Client, decides: Runtime) -> None:
        self._operator_url = cluster.ready_info()["operator_url"]
        self._client = client
        self._decides = decides

    async def submit(self) -> None:
        """Have one task done."""
        handle = await self._client.submit("walk.double", 21)
        if await handle.result(timeout=WAIT) != 42:  # noqa: PLR2004 - it is the double
            raise ManipleError("the result is wrong")

    async def limit(self) -> None:
        """Have the tasks limited from now on."""
        await ask(self._operator_url, "policy", "policy.apply", {"document": LIMIT}, WAIT)
        async with asyncio.timeout(WAIT):
            while LIMIT_KEY not in self._decides.health.versions:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)


@asynccontextmanager
async def inside() -> AsyncIterator[Inside]:
    """Start all that a task needs, and end it. Raises `LocalError` where a server is missing."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maniple-walk-")))
        (folder / "walk_handlers.py").write_text(HANDLER)
        cluster = await stack.enter_async_context(Cluster(ClusterOptions(services=False)))

        async def start(kind: type[ServiceSettings], build: Any, **more: Any) -> Runtime:
            settings = kind(
                broker_url=cluster.servers.broker_url(kind.service),
                consul_url=cluster.servers.consul_url,
                data_dir=folder / kind.service,
                drain_timeout=1.0,
                **more,
            )
            return await stack.enter_async_context(running(settings, build))

        await start(RegistrySettings, registry.build)
        await start(PolicySettings, policy.build)
        decides = await start(DispatcherSettings, dispatcher.build)
        await start(AgentSettings, agent.build, handlers=(str(folder / "walk_handlers.py"),))
        url = cluster.ready_info()["client_url"]
        yield Inside(cluster, await stack.enter_async_context(connect(url)), decides)


async def walk(rounds: int, quiet: float) -> tuple[Walk, Walk]:
    """Return the walk of a task, and that of one under a limit; `quiet` is in seconds."""
    recorder = Recorder(is_below(PRODUCT))
    with recorder.installed():
        async with inside() as cluster:
            plain = await _rounds(recorder, cluster, rounds, quiet)
            await cluster.limit()
            limited = await _rounds(recorder, cluster, rounds, quiet)
    # What runs seldom in the quiet may have been seen in one of both only.
    idle = plain.idle | limited.idle
    return walk_of(plain.walked, idle, ROOT), walk_of(limited.walked, idle, ROOT)


@dataclass
class Rounds:
    """What ran in the quiet, and what in each round in which there was a task."""

    idle: set[CodeType] = field(default_factory=set)
    walked: list[Ran] = field(default_factory=list)


async def _rounds(recorder: Recorder, cluster: Inside, rounds: int, quiet: float) -> Rounds:
    await cluster.submit()  # the first one finds nothing prepared, and is not like the others
    await asyncio.sleep(quiet)  # nor is the quiet just after a start or a change
    seen = Rounds()
    for _ in range(rounds):
        # With what the task before leads to later: reports that sum up many are of none.
        with recorder.recording() as ran:
            await asyncio.sleep(quiet)
        seen.idle |= ran.keys()
        with recorder.recording() as ran:
            await cluster.submit()
            await asyncio.sleep(SETTLING)
        seen.walked.append(ran)
    return seen


def as_json(walks: Mapping[str, Walk]) -> str:
    """Return what a program reads."""
    told = {
        name: {
            "files": [asdict(file) for file in walk.files],
            "lines": walk.lines,
            "deepest": walk.deepest,
        }
        for name, walk in walks.items()
    }
    return json.dumps(told, indent=2)


def show(plain: Walk, limited: Walk, console: Console) -> None:
    """Print what a person reads."""
    under = {file.path: file for file in limited.files}
    table = Table(box=None)
    table.add_column("file", no_wrap=True)
    for column in ("lines", "functions", "under a limit"):
        table.add_column(column, justify="right")
    for file in plain.files:
        other = under.pop(file.path, None)
        cells = (file.lines, len(file.functions), len(other.functions) if other else "")
        table.add_row(file.path, *map(str, cells))
    for file in under.values():
        table.add_row(file.path, str(file.lines), "", str(len(file.functions)))
    console.print(table)
    for name, one in (("a task", plain), ("under a limit", limited)):
        console.print(
            f"\n{name}: {len(one.files)} files, {one.lines:,} lines; "
            f"the deepest chain has {len(one.deepest)} functions:"
        )
        for number, function in enumerate(one.deepest, 1):
            console.print(f"{number:4} {function}", markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="tasks of each kind")
    parser.add_argument("--quiet", type=float, default=5.0, help="seconds before each, without any")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    with Path(os.devnull).open("w") as nowhere:
        configure_logging(ServiceSettings(), nowhere)
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                plain, limited = runner.run(walk(given.rounds, given.quiet))
        except (ManipleError, TimeoutError) as error:
            sys.stderr.write(f"{error!r}\n")
            return FAILED
    if not plain.files:
        sys.stderr.write(f"what ran is not of {ROOT}: is another checkout installed?\n")
        return FAILED
    if given.json:
        print(as_json({"plain": plain, "limited": limited}))
    else:
        show(plain, limited, Console(width=None if sys.stdout.isatty() else WIDTH))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
