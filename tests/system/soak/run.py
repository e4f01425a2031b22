"""A soak: one cluster, one stream of tasks at a fixed rate, agents killed, connections closed."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path

from holding import meanwhile
from maniple.amqp import AmqpConnection
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.dev_cluster.errors import LocalError
from maniple_runtime.records import RecordReader
from paths import PYTHONPATH, ROOT
from rabbitmqctl import Installed, close_connection
from system.campaign import checks
from system.soak.accounts import Accounts
from system.soak.judging import Pace, Samples, breaches
from system.soak.sampling import Sampler
from waiting import hold_within

AGENTS = 3
MORTAL = ("agent-2", "agent-3")
"""They are killed in turns; agent-1 has the whole time for its one life."""
OWNERS = ("agent-", "dispatcher-", "registry-", "policy-", "maniple-client")
"""Whose connections are closed, one after the other, by the prefix of their names."""
APART = 2.0  # seconds
FAULTS = 9  # every second one kills an agent: so seldom that its lives can be judged
SAMPLES = 200  # in all, but for the shortest period
PERIOD = 2.0  # seconds between samples at least
SHORTEST = 0.3  # of the whole, that a life has to last for to be judged
SILENCE = 60.0  # seconds without any news after which the rest is lost
LINE_BYTES = 1 << 24

Show = Callable[[str, float, Accounts], None]
"""Hears what happened last, how many seconds have passed, and the accounts so far."""


@dataclass(frozen=True)
class Options:
    """How long, and how many tasks a second."""

    minutes: float = 60.0
    rate: float = 2000.0
    logs: Path | None = None
    """Where to put the logs of all processes, and the samples."""

    @property
    def seconds(self) -> float:
        """How long tasks are submitted for."""
        return 60.0 * self.minutes


@dataclass(frozen=True)
class Outcome:
    """What a soak found. `closed` are connections; `shortest` is in seconds: see `judging`."""

    accounts: Accounts
    samples: Samples
    pace: Pace
    killed: int
    closed: int
    shortest: float
    complaints: list[str]


class Soak:
    """A running soak."""

    def __init__(self, options: Options, cluster: Cluster, show: Show) -> None:
        self.accounts = Accounts()
        self.killed: set[int] = set()
        self.closed = 0
        self.took = 0.0
        """Seconds that the submitter has been submitting for."""
        self._options = options
        self._cluster = cluster
        self.broker = Installed(cluster.servers)
        self._show = show
        self._last = "all is started"
        self._begun = time.monotonic()

    async def work(self, client: asyncio.subprocess.Process, sampler: Sampler) -> None:
        """Do it all, until the submitter has ended."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.follow(client))
            sampling = group.create_task(self.sample(sampler))
            await self.hurt()
            sampling.cancel()

    async def sample(self, sampler: Sampler) -> None:
        """Take samples for as long as tasks are submitted."""
        period = max(PERIOD, self._options.seconds / SAMPLES)
        while True:
            await sampler.sample()
            self._show(self._last, time.monotonic() - self._begun, self.accounts)
            await asyncio.sleep(period)

    async def hurt(self) -> None:
        """Close connections, kill an agent, and so on, evenly over the whole time."""
        agents = cycle(MORTAL)
        for number in range(1, FAULTS + 1):
            await self._until(number / (FAULTS + 1))
            if number % 2:
                await self._close()
            else:
                self._kill(next(agents))
        await self._until(1.0)

    async def _until(self, share: float) -> None:
        due = self._begun + share * self._options.seconds
        await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _kill(self, agent: str) -> None:
        process = self._cluster.process(agent)
        if process.child.running:
            self.killed.add(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            self._last = f"{agent} was killed"

    async def _close(self) -> None:
        for owner in OWNERS:
            try:
                closed = await close_connection(self.broker, owner)
            except LocalError:  # one that was closing already, or yet to be opened, ends the rest
                closed = 0
            self.closed += closed
            self._last = f"{closed} connections of {owner.rstrip('-')} were closed"
            await asyncio.sleep(APART)

    def spared(self) -> list[str]:
        """Tell what was not done to the cluster that had to be."""
        done = {"no agent was killed": len(self.killed), "no connection was closed": self.closed}
        return [said for said, count in done.items() if not count]

    async def follow(self, client: asyncio.subprocess.Process) -> None:
        """Take what the submitter says until it ends; end it when it hears nothing for a minute."""
        assert client.stdout is not None
        heard = time.monotonic()
        while line := await client.stdout.readline():
            said = json.loads(line)
            self.accounts.submit(said["submitted"])
            self.accounts.tell(said["told"], said["odd"])
            self.accounts.close()
            self.took = said["took"]
            if said["told"] or said["odd"]:
                heard = time.monotonic()
            if time.monotonic() - heard > SILENCE:
                client.kill()
        await client.wait()


@asynccontextmanager
async def submitter(
    cluster: Cluster, options: Options, folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the program that submits; its errors go to a file in `folder`."""
    paths = [PYTHONPATH, str(ROOT), os.environ.get("PYTHONPATH", "")]
    environ = {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "MANIPLE_BROKER_URL": cluster.ready_info()["client_url"],
    }
    program = ("-m", "system.soak.client_program", str(options.rate), str(options.seconds))
    with (folder / "client.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *program),
            env={**os.environ, **environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=LINE_BYTES,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def records(cluster: Cluster, accounts: Accounts) -> AsyncIterator[None]:
    """Read the records for the time of the block."""
    link = AmqpConnection(cluster.ready_info()["operator_url"], name="soak.records")
    reader = RecordReader(link, accounts.hear)
    await link.start(10)
    try:
        async with meanwhile(reader.read_records()):
            yield
    finally:
        await link.close()


async def run(options: Options, folder: Path, show: Show) -> Outcome:
    """Run a soak with its files in `folder`."""
    env = {"agent": {"PYTHONPATH": PYTHONPATH}}
    what = ClusterOptions(agents=AGENTS, handlers=("system.floods.handlers",), env=env)
    async with Cluster(what) as cluster:
        soak = Soak(options, cluster, show)
        async with (
            records(cluster, soak.accounts),
            submitter(cluster, options, folder) as client,
        ):
            sampler = Sampler(cluster, client.pid)
            await soak.work(client, sampler)
            with contextlib.suppress(AssertionError):  # what is missing is told of below
                await hold_within(lambda: soak.accounts.complete, SILENCE)
            left = [] if client.returncode == 0 else [await _ended(client, folder)]
        left += await checks.left_in_queues(soak.broker, cluster.servers.environment)
        left += soak.spared()
        left += checks.unexpected(cluster.deaths, soak.killed)
        if options.logs:
            await asyncio.to_thread(_keep, cluster, sampler.samples, options.logs)
    pace = Pace(options.rate, soak.accounts.submitted / max(soak.took, 1.0))
    shortest = SHORTEST * options.seconds
    flat = list(breaches(sampler.samples, pace, shortest))
    complaints = [*soak.accounts.end(), *left, *flat]
    return Outcome(
        soak.accounts, sampler.samples, pace, len(soak.killed), soak.closed, shortest, complaints
    )


def _keep(cluster: Cluster, samples: Samples, folder: Path) -> None:
    """Keep what explains a soak: all logs, and all samples as JSON."""
    shutil.copytree(cluster.data_dir / "logs", folder, dirs_exist_ok=True)
    (folder / "samples.json").write_text(json.dumps(asdict(samples)))


async def _ended(client: asyncio.subprocess.Process, folder: Path) -> str:
    """Tell how the submitter ended that had not all its results."""
    said = await asyncio.to_thread((folder / "client.log").read_text)
    how = f"ended with {client.returncode}, by us if it heard nothing for {SILENCE:.0f} s"
    return f"the submitter {how}: {said[-1500:]}"
