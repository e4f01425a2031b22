"""A demonstration from start to end: a cluster, real work, a killed agent, a check of everything.

Every result is compared with the same analysis made directly, in this process.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maniple.client import Client, connect
from maniple.client.submission import encode_payload
from maniple.errors import ConfigurationError
from maniple.messages import Task
from maniple_cli.demo import handlers
from maniple_cli.demo.analysis import analyse
from maniple_cli.demo.handlers import CAPABILITY
from maniple_cli.demo.screen import DemoScreen
from maniple_cli.demo.sources import find_sources
from maniple_cli.demo.summary import Summary, Tally, table_of
from maniple_cli.dev_cluster.child import Death
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions

# Nothing takes this long; a task without a result by then is lost.
STALL_SECONDS = 90.0
KILL_AT = 1 / 3
SHOWN_COMPLAINTS = 10


@dataclass(frozen=True)
class DemoOptions:
    """What to analyse (`path`, a folder), with how many agents, and whether one is killed."""

    path: Path
    agents: int = 3
    kill: bool = True


class Demo:
    """One demonstration."""

    def __init__(self, options: DemoOptions, screen: DemoScreen) -> None:
        """Find the files. Raises `ConfigurationError` if there are none."""
        self._options = options
        self._screen = screen
        files = find_sources(options.path)
        if not files:
            raise ConfigurationError(f"there is no Python source file in {options.path}")
        self._tally = Tally([file.relative_to(options.path) for file in files])
        self._killed = not options.kill

    async def run(self) -> Summary:
        """Run it. Raises `LocalError` if the cluster cannot be started."""
        total, agents = len(self._tally.paths), self._options.agents
        self._screen.say(f"{total:,} Python source files in {self._options.path}")
        self._screen.say(f"starting RabbitMQ, Consul, the services and {agents} agents")
        cluster = Cluster(_cluster_options(agents), on_death=self._died)
        async with cluster:
            started = time.monotonic()
            async with connect(cluster.ready_info()["client_url"]) as client:
                await self._analyse(client, cluster)
            seconds = time.monotonic() - started
        if cluster.kept:
            self._screen.say(f"something failed: the logs are kept in {cluster.kept}")
        await self._verify()
        summary = self._tally.summary(seconds)
        self._tell(summary)
        return summary

    async def _analyse(self, client: Client, cluster: Cluster) -> None:
        """Submit every file and collect the results; stops when none arrives for long."""
        total = len(self._tally.paths)
        paths = {str(number): path for number, path in enumerate(self._tally.paths)}
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(STALL_SECONDS) as patience:
                async for result in client.outcomes(self._tasks(), ordered=False):
                    patience.reschedule(loop.time() + STALL_SECONDS)
                    self._tally.count_result(paths[result.id.rpartition("-")[2]], result)
                    self._screen.show("analysed", self._tally.shares(), total)
                    if len(self._tally.results) >= total * KILL_AT:
                        self._kill_one(cluster)
        except TimeoutError:
            self._screen.say(f"no result for {STALL_SECONDS:g} s: giving up")

    def _tasks(self) -> Iterator[Task]:
        run = f"demo-{os.getpid()}-{time.time_ns()}"
        for number, path in enumerate(self._tally.paths):
            file = self._options.path / path
            payload = encode_payload(str(file))
            yield Task(capability=CAPABILITY, id=f"{run}-{number}", payload=payload)

    def _kill_one(self, cluster: Cluster) -> None:
        """Kill the agent that has done most, once, without notice."""
        if self._killed:
            return
        self._killed = True
        shares = self._tally.shares()
        agent = max(cluster.of_service("agent"), key=lambda agent: shares[agent.instance])
        os.kill(agent.pid, signal.SIGKILL)
        self._screen.say(
            f"killed {agent.instance} (pid {agent.pid}) with SIGKILL after "
            f"{len(self._tally.results):,} files; what it held goes to the others"
        )

    def _died(self, death: Death) -> None:
        again = "" if death.restart_in is None else f"; starts again in {death.restart_in:.1f} s"
        self._screen.say(f"{death.name} died: {death.cause}{again}")
        if death.is_failure:
            self._screen.say(death.tail)

    async def _verify(self) -> None:
        total = len(self._tally.paths)
        for number, path in enumerate(self._tally.paths, 1):
            if not self._tally.verify(path, analyse(self._options.path / path)):
                self._screen.say(f"not verified: {path}")
            self._screen.show("checked", {"this process": number}, total)
            await asyncio.sleep(0)  # so that Ctrl-C is heard

    def _tell(self, summary: Summary) -> None:
        for number, complaint in enumerate(self._tally.complaints(), 1):
            if number > SHOWN_COMPLAINTS:
                self._screen.say("…")
                break
            self._screen.say(complaint)
        self._screen.say(table_of(self._tally.succeeded()))
        shares = ", ".join(f"{name} {count:,}" for name, count in summary.agents.items())
        self._screen.say(
            f"{summary.seconds:.1f} s on {len(summary.agents)} agents ({shares}), "
            f"{summary.redelivered:,} tasks redelivered"
        )


def _cluster_options(agents: int) -> ClusterOptions:
    """Divide the machine's processors among the agents."""
    processes = max(1, (os.cpu_count() or 1) // agents)
    return ClusterOptions(
        agents=agents,
        handlers=(handlers.__name__,),
        env={"agent": {"MANIPLE_PROCESSES": str(processes)}},
    )
