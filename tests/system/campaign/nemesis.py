"""The nemesis, through which faults act: what they reach, and what was done to it when."""

import asyncio
import base64
import contextlib
import json
import math
import os
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from faults import Reached
from flaky_network import FlakyNetwork
from maniple.errors import ManipleError
from maniple.messages import Status
from maniple_cli.dev_cluster.child import Child
from maniple_cli.dev_cluster.cluster import Cluster, ServiceProcess
from maniple_cli.dev_cluster.http import fetch
from maniple_runtime.events import AgentUnreachable
from maniple_runtime.metric_names import PUBLISHING_BLOCKED
from maniple_runtime.records import TaskKey
from maniple_runtime.records.first_wins import Ending
from policy_world import World
from system.brokers import Broker
from system.campaign.history import History
from system.campaign.journal import Journal
from system.campaign.workload import PlannedTask
from system.campaign_handlers import children_of
from waiting import hold_within, wait_until

OK = 200
MISTAKEN, CUT_OFF = "agent-5", "policy-2"
CHOICE_SECONDS = 10.0
AGAIN = 0.2
REFUSED = "refused"
STILL_RUNS = 0.3  # seconds that a task has to go on for, if it is to be lost with its agent
BLOCKED = re.compile(rf"^{PUBLISHING_BLOCKED.name}\{{[^}}]*\}} 1", re.MULTILINE)


def _told(ending: Ending) -> str:
    """Return how a task ended; a fallback's output is a refusal, too: no agent has run it."""
    gone = ending.status in {Status.EXPIRED, Status.CANCELLED}
    return REFUSED if ending.agent is None and not gone else ending.status.value


class Expected(StrEnum):
    """What has to be told of the agents that a fault hits; of all others, that they live."""

    ALIVE = "alive"
    SUSPECTED = "suspected, and back"
    FAILED = "failed, and back as a new incarnation"


@dataclass
class Incident:
    """What happened. Times are Unix times; `over` is when its cause had gone."""

    begun: float = 0.0
    """When the first tasks were due."""
    struck: float = 0.0
    over: float = 0.0
    lives: dict[str, str] = field(default_factory=dict)
    """The agents that it hit, with their incarnation then."""
    killed: dict[int, str] = field(default_factory=dict)
    """What was killed on purpose: names by process id."""
    undecided_until: float = 0.0
    """Before this nobody may have been declared failed: the row is about who does it then."""
    problems: list[str] = field(default_factory=list)
    """What the fault should have done to the cluster, and did not."""

    def gone_until(self, agent: str) -> float:
        """When an agent that it hit lived again; one that was killed never does."""
        return math.inf if agent in self.killed.values() else self.over


@dataclass(frozen=True)
class ClusterUnderTest:
    """What all faults of a campaign may reach, and what is known of it."""

    cluster: Cluster
    reached: Reached
    history: History
    journal: Journal
    world: World
    """What changes policies."""
    consul: FlakyNetwork
    """What `CUT_OFF` has between itself and Consul."""
    clock: Path
    """The file that says by how many seconds the clock of `MISTAKEN` is wrong."""


class Nemesis:
    """What a fault acts through. `chance` decides all that the fault leaves open."""

    def __init__(
        self,
        under_test: ClusterUnderTest,
        chance: random.Random,
        tasks: Collection[PlannedTask] = (),
    ) -> None:
        self.cluster = under_test.cluster
        self.broker: Broker = under_test.reached.broker
        self.network: FlakyNetwork = under_test.reached.network
        self.chance = chance
        self.incident = Incident()
        self.world = under_test.world
        self.consul_network = under_test.consul
        self.set_clock = partial(set_clock, under_test.clock)
        self._history = under_test.history
        self._journal = under_test.journal
        # Those with an affinity key are left out: they move later.
        self._lengths = {task.id: task.seconds for task in tasks if task.affinity is None}

    def agents(self, count: int = 1) -> list[ServiceProcess]:
        """Choose agents."""
        return self.chance.sample(self.cluster.of_service("agent"), count)

    async def working_agents(self, count: int = 1) -> list[ServiceProcess]:
        """Choose agents, and return once each runs a task that it would not finish at once."""
        return await self.at_work(*self.agents(count))

    async def at_work(self, *chosen: ServiceProcess) -> list[ServiceProcess]:
        """Return once each of these agents runs a task that it would not finish at once."""
        names = {agent.instance for agent in chosen}
        await self.confirm(
            lambda: names <= self._working(), CHOICE_SECONDS, "the agents had nothing to do"
        )
        return list(chosen)

    async def child_of(self, agent: ServiceProcess) -> int:
        """Return the process id of the child that a handler has forked this life of an agent."""
        file, parent = children_of(self._journal.path, agent.instance), agent.child.pid

        def there() -> bool:
            return file.exists() and _parent_of(int(file.read_text() or 0)) == parent

        await self.confirm(there, CHOICE_SECONDS, f"{agent.instance} has no child")
        return int(file.read_text())

    def refused_wrongly(self, tasks: Collection[TaskKey]) -> Iterator[str]:
        """Tell which of a fault's own tasks have more than one end, or ran and were refused."""
        self._journal.read()
        for key in tasks:
            fate = self._history.others.get(key)
            ends = [_told(end.ending) for end in fate.ends] if fate else []
            if len(set(ends)) != 1:
                yield f"{key.id} has the ends {ends}"
            elif ends[0] == REFUSED and self._journal.of(key.id):
                yield f"{key.id} was refused, and ran"

    def ran(self, tasks: Collection[TaskKey]) -> int:
        """Return how many of these have been started."""
        self._journal.read()
        return sum(bool(self._journal.of(key.id)) for key in tasks)

    def refused(self, tasks: Collection[TaskKey]) -> int:
        """Return how many of these have been refused, by the records."""
        fates = map(self._history.others.get, tasks)
        ends = [_told(fate.ends[0].ending) for fate in fates if fate and fate.ends]
        return ends.count(REFUSED)

    def has_ended(self, tasks: Collection[TaskKey]) -> bool:
        """Whether all of these have an end in the records."""
        fates = map(self._history.others.get, tasks)
        return all(fate is not None and fate.ends for fate in fates)

    async def change(self, kind: str, name: str, spec: Mapping[str, Any], **more: Any) -> None:
        """Change a policy, also where a service cannot just now: another may be asked then."""
        while True:
            try:
                await self.world.apply(kind, name, dict(spec), **more)
            except ManipleError:
                await asyncio.sleep(AGAIN)
            else:
                return

    def service(self, name: str) -> ServiceProcess:
        """Choose a process of a service."""
        return self.chance.choice(self.cluster.of_service(name))

    def strike(self, *agents: ServiceProcess) -> None:
        """Say that the fault begins now, and which agents it hits."""
        self.incident.struck = time.time()
        self.incident.lives = {
            agent.instance: self._history.incarnation(agent.instance) for agent in agents
        }

    def over(self) -> None:
        """Say that its cause has gone: from now on everything has to work again."""
        self.incident.over = time.time()

    def kill(self, child: Child) -> None:
        """Kill a process; the cluster starts it again."""
        self.incident.killed[child.pid] = child.spec.name
        os.kill(child.pid, signal.SIGKILL)

    async def confirm(
        self, condition: Callable[[], bool | Awaitable[bool]], seconds: float, otherwise: str
    ) -> None:
        """Wait for what the fault must have done; it is a problem if it has not in time."""
        try:
            await hold_within(condition, seconds)
        except AssertionError:
            self.incident.problems.append(otherwise)

    async def suspected(self, agent: ServiceProcess, seconds: float) -> float:
        """Return when the registry began to suspect an agent that was hit."""
        found: list[float] = []

        def told() -> bool:
            said = self._history.said(AgentUnreachable, self.incident.struck)
            found.extend(e.at.timestamp() for e in said if e.agent == agent.instance)
            return bool(found)

        await self.confirm(told, seconds, f"{agent.instance} was not suspected in time")
        return found[0] if found else time.time()

    async def holds_back(self) -> bool:
        """Whether some process says that the broker does not take what it publishes."""
        for process in self.cluster.processes:
            _, page = await fetch(f"{process.http}/metrics")
            if BLOCKED.search(page):
                return True
        return False

    @property
    def consul(self) -> Child:
        """Consul's process."""
        return next(child for child in self.cluster.servers.children if child.spec.name == "consul")

    async def consul_answers(self) -> bool:
        """Whether Consul is there."""
        status, _ = await fetch(f"{self.cluster.servers.consul_url}/v1/status/leader")
        return status == OK

    async def leader(self) -> ServiceProcess:
        """Return the registry that leads, once one does. Raises `AssertionError` if none does."""
        environment = self.cluster.servers.environment
        url = f"{self.cluster.servers.consul_url}/v1/kv/maniple/{environment}/registry/leader"
        found: list[str] = []

        async def known() -> bool:
            status, body = await fetch(url)
            found[:] = [holder] if status == OK and (holder := holder_of(body)) else []
            return bool(found)

        await wait_until(known, CHOICE_SECONDS)
        return self.cluster.process(found[0])

    def _working(self) -> set[str]:
        self._journal.read()
        now, lengths = time.time(), self._lengths
        return {
            run.agent
            for run in self._journal.held_by(None, now)
            if run.started + lengths.get(run.task, -math.inf) > now + STILL_RUNS
        }


def set_clock(file: Path, seconds: float) -> None:
    """Have the clock of `MISTAKEN` be ahead by so much."""
    written = file.with_suffix(".new")
    written.write_text(str(seconds))
    written.replace(file)  # it is read all the time


def is_there(pid: int) -> bool:
    """Whether a process runs."""
    return _parent_of(pid) is not None


def _parent_of(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return None if state == "Z" else int(parent)


def holder_of(body: str) -> str:
    """Return who holds a lock of Consul's; "" if nobody does, whoever did before."""
    with contextlib.suppress(ValueError):
        (entry,) = json.loads(body)
        if entry.get("Session"):
            return base64.b64decode(entry["Value"]).decode()
    return ""


@dataclass(frozen=True)
class Fault:
    """One row of the matrix: what is done, and what has to be true then.

    All in seconds: `lasts` is about how long it takes, `moves_within` when the tasks of the agents
    it hits have to run elsewhere (None: they stay), `whole_within` when, after its end, everything
    has to work again.
    """

    name: str
    inject: Callable[[Nemesis], Awaitable[None]]
    lasts: float = 0.0
    expected: Expected = Expected.ALIVE
    moves_within: float | None = None
    whole_within: float = 10.0
    short: bool = False
    """Whether the short form has it."""
    busy: bool = False
    """Whether its tasks compute, on all cores."""
    idle: bool = False
    """Whether it goes on after the last task has come."""
    shakes_all: bool = False
    """Whether agents that it does not hit may be suspected all the same."""
    shakes_consul: bool = False
    """Whether all processes have to be passing in Consul again afterwards."""
    works_meanwhile: bool = False
    """Whether tasks have to go on ending while it lasts."""

    def failures(self, incident: Incident) -> set[tuple[str, str]]:
        """Return the agents, each with its life, that have to be declared failed."""
        return set(incident.lives.items()) if self.expected is Expected.FAILED else set()
