"""A campaign: one cluster, one stream of tasks, one fault after the other."""

import asyncio
import contextlib
import math
import os
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from faults import Reached
from flaky_network import FlakyNetwork
from holding import meanwhile
from maniple.amqp.probe import probe
from maniple.client import Client, connect
from maniple_cli.control import operator_plane
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from paths import PYTHONPATH
from policy_world import World
from system.brokers import BrokerKind, broker_of
from system.campaign import checks
from system.campaign.checker import unexplained
from system.campaign.client_history import ClientHistory
from system.campaign.courier import Courier
from system.campaign.journal import Journal
from system.campaign.matrix import Row
from system.campaign.measure import Evidence, measure
from system.campaign.memory import Memory
from system.campaign.nemesis import (
    CUT_OFF,
    MISTAKEN,
    ClusterUnderTest,
    Fault,
    Incident,
    Nemesis,
    set_clock,
)
from system.campaign.policies import VARIANTS, deciding, put_in_force
from system.campaign.submitters import PlainPublisher, submit
from system.campaign.table import AGENTS, FAULTS
from system.campaign.watching import watching
from system.campaign.workload import BRIEF, FULL, Form, PlannedTask, Submitter, chance, planned
from system.campaign_handlers import JOURNAL_VARIABLE
from waiting import hold_within, wait_until

WRONG_CLOCK = Path(__file__).parent / "wrong_clock"
CLOCK = "clock"
PATIENCE = 60.0

Report = Callable[[str, int, list[Row]], None]
"""Hears what is under way, how many tasks have ended, and the rows so far."""


@dataclass(frozen=True)
class Options:
    """What to run."""

    seed: int = 1
    broker: BrokerKind = BrokerKind.NATIVE
    short: bool = False
    only: str = ""
    """Run the faults whose name contains this."""
    logs: Path | None = None
    """Where to put the logs of all processes."""

    @property
    def faults(self) -> list[Fault]:
        """The faults to inject, in order."""
        wanted = [fault for fault in FAULTS if fault.short or not self.short]
        return [fault for fault in wanted if self.only in fault.name]

    @property
    def form(self) -> Form:
        """How much work there is around each fault."""
        return BRIEF if self.short else FULL

    @property
    def counts(self) -> list[int]:
        """How many tasks to submit, fault by fault."""
        return [self.form.tasks(0 if one.idle else one.lasts) for one in self.faults]

    @property
    def total(self) -> int:
        """How many tasks to submit in all."""
        return sum(self.counts)


@dataclass(frozen=True)
class Outcome:
    """What a campaign found. `problems` are those of no single row."""

    rows: list[Row]
    problems: list[str]
    seconds: float
    memory: dict[str, tuple[float, float]]
    """Of each process in MiB, when it had been started and at the end."""
    broker: str
    """Its name and version."""
    again: int
    """How many results came to submitters that had one of the same task already."""

    @property
    def complaints(self) -> list[str]:
        """All that was not as it has to be."""
        of_rows = [f"{row.fault}: {problem}" for row in self.rows for problem in row.problems]
        return of_rows + self.problems


class Campaign:
    """Submits tasks and injects faults; `running` gives one that is ready."""

    def __init__(
        self,
        under_test: ClusterUnderTest,
        client_history: ClientHistory,
        submitters: tuple[Client, Client, PlainPublisher],
    ) -> None:
        self.cluster = under_test.cluster
        self.broker = under_test.reached.broker
        self.courier = Courier()
        self.evidence = Evidence(
            client_history, under_test.history, under_test.journal, self.courier, deciding
        )
        self.memory = Memory(self.cluster, self.broker)
        self.incidents: list[tuple[Fault, Incident]] = []
        self._under_test = under_test
        self._clients = submitters[:2]
        self._plain = submitters[2]

    async def row(
        self, fault: Fault, tasks: list[PlannedTask], rng: random.Random, lead: tuple[float, float]
    ) -> Row:
        """Inject one fault among its tasks, wait until all is well again, and measure."""
        nemesis = Nemesis(self._under_test, rng, tasks)
        async with asyncio.TaskGroup() as group:
            nemesis.incident.begun = time.time()
            submitting = group.create_task(self._submit(tasks))
            await asyncio.sleep(rng.uniform(*lead))
            await fault.inject(nemesis)
            await _until(lambda: self.is_whole(nemesis.incident.over))
            missing = await checks.missing_in_consul(self.cluster) if fault.shakes_consul else []
            await self._while_results_come(submitting)
            submitting.cancel()
        await _until(lambda: all(self.evidence.ends(task.id) for task in tasks))
        await asyncio.to_thread(self.evidence.journal.read)
        self.incidents.append((fault, nemesis.incident))
        await self.memory.look()
        found = measure(fault, nemesis.incident, tasks, self.evidence)
        return replace(found, problems=(*found.problems, *missing))

    async def _submit(self, tasks: list[PlannedTask]) -> None:
        """Submit each when it is due, and return when all their submitters have been told."""
        client_history, begun = self.evidence.client_history, time.monotonic()
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                await asyncio.sleep(max(0.0, begun + task.due - time.monotonic()))
                if task.submitter is Submitter.PLAIN:
                    self._plain.submit(task)
                else:
                    group.create_task(submit(self._clients[task.submitter], task, client_history))
            await wait_until(
                lambda: all(task.id in client_history.told for task in tasks), math.inf
            )

    async def _while_results_come(self, submitting: asyncio.Task[None]) -> None:
        """Wait for all results: slow is not lost, but a minute without any news is."""
        heard = -1
        while not submitting.done() and heard < len(self.evidence.client_history.told):
            heard = len(self.evidence.client_history.told)
            await asyncio.wait({submitting}, timeout=PATIENCE)

    def is_whole(self, after: float) -> bool:
        """Whether everything has worked again after a time."""
        return self.evidence.history.whole_since(after) is not None


async def _until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait for a condition, but not for ever: what is missing then is found by measuring."""
    with contextlib.suppress(AssertionError):
        await hold_within(condition, seconds)


@asynccontextmanager
async def running(kind: BrokerKind, folder: Path) -> AsyncIterator[Campaign]:
    """Start a cluster whose every connection to its broker can be cut, and its submitters."""
    journal = Journal(folder / "executions.jsonl")
    agents = {
        "PYTHONPATH": os.pathsep.join([PYTHONPATH, os.environ.get("PYTHONPATH", "")]),
        "MANIPLE_PROCESSES": "1",
        "MANIPLE_VARIANTS": VARIANTS,
        JOURNAL_VARIABLE: str(journal.path),
    }
    mistaken = {
        "PYTHONPATH": os.pathsep.join([str(WRONG_CLOCK), agents["PYTHONPATH"]]),
        "CAMPAIGN_CLOCK": str(folder / CLOCK),
    }
    options = ClusterOptions(
        agents=AGENTS,
        dispatchers=2,
        policies=2,
        handlers=("system.campaign_handlers",),
        env={"agent": agents, MISTAKEN: mistaken},
    )
    client_history = ClientHistory()
    async with AsyncExitStack() as stack:
        reached = await stack.enter_async_context(Reached(broker_of(kind, folder / "rabbitmq")))
        consul = await stack.enter_async_context(FlakyNetwork(lambda: starting.servers.consul_url))
        url = f"http://127.0.0.1:{consul.port}"
        options = replace(options, env={**options.env, CUT_OFF: {"MANIPLE_CONSUL_URL": url}})
        set_clock(folder / CLOCK, 0.0)
        starting = Cluster(options, broker=reached)
        cluster = await stack.enter_async_context(starting)
        history = await stack.enter_async_context(watching(cluster))
        info = cluster.ready_info()
        one = await stack.enter_async_context(connect(info["client_url"]))
        two = await stack.enter_async_context(connect(info["client_url"]))
        plain = stack.enter_context(
            PlainPublisher(info["broker_url"], "campaign.plain", client_history)
        )
        plane = await stack.enter_async_context(operator_plane(info["operator_url"]))
        world = World(cluster, one, plane, folder)
        await put_in_force(world)
        under_test = ClusterUnderTest(
            cluster, reached, history, journal, world, consul, folder / CLOCK
        )
        campaign = Campaign(under_test, client_history, (one, two, plain))
        async with meanwhile(campaign.courier.run(reached.url("agent"))):
            yield campaign


async def run(options: Options, folder: Path, report: Report) -> Outcome:
    """Run a campaign with its files in `folder`."""
    begun = time.monotonic()
    rows: list[Row] = []
    async with running(options.broker, folder) as campaign:
        await _until(lambda: campaign.is_whole(0.0))
        view = await probe(campaign.cluster.ready_info()["operator_url"], (), ())
        await campaign.memory.look()
        pairs = zip(options.faults, options.counts, strict=True)
        for number, (fault, count) in enumerate(pairs):
            report(fault.name, len(campaign.evidence.client_history.told), rows)
            tasks = planned(options.seed, number, count, busy=fault.busy)
            rng = chance(options.seed, number, "fault")
            rows.append(await campaign.row(fault, tasks, rng, options.form.lead))
        report("the end", len(campaign.evidence.client_history.told), rows)
        problems = await _problems(campaign, options.total)
        if options.logs:
            await asyncio.to_thread(_keep, campaign, options.logs)
    return Outcome(
        rows,
        problems,
        time.monotonic() - begun,
        campaign.memory.sizes,
        f"{view.product} {view.version}",
        campaign.evidence.client_history.again,
    )


async def _problems(campaign: Campaign, submitted: int) -> list[str]:
    cluster, history = campaign.cluster, campaign.evidence.history
    incidents = campaign.incidents
    failures = {life for fault, incident in incidents for life in fault.failures(incident)}
    killed = {pid for _, incident in incidents for pid in incident.killed}
    left = await checks.left_in_queues(campaign.broker, cluster.servers.environment)
    await campaign.memory.look()
    return [
        *checks.accounts(campaign.evidence, submitted),
        *checks.false_failures(history, failures),
        *unexplained(history, incidents),
        *checks.unexpected(cluster.deaths, killed),
        *campaign.memory.grown(),
        *left,
        *await checks.missing_in_consul(cluster),
    ]


def _keep(campaign: Campaign, folder: Path) -> None:
    """Keep what explains a campaign: all logs, all executions, and the ends that were refused."""
    shutil.copytree(campaign.cluster.data_dir / "logs", folder, dirs_exist_ok=True)
    shutil.copy(campaign.evidence.journal.path, folder)
    for child in campaign.broker.children:
        shutil.copy(child.spec.log, folder)
    late = [f"{key.id} {end.ending}" for key, end in campaign.evidence.history.ledger.late()]
    (folder / "late.txt").write_text("\n".join(late))
