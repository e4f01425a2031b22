"""Dispatchers in virtual time: the product's own pipeline, coordinator and gossip."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import structlog
from msgspec.structs import replace

import maniple_dispatcher.limits.gossip
from maniple.clock import Clock
from maniple.messages import Envelope, Waiting
from maniple.timings import Timings
from maniple.topology import OUTCOMES
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.handlers import DispatcherHandlers
from maniple_dispatcher.limits.bulkhead_recount import BulkheadRecount
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.gossip import Gossip
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.snapshot import LimitSnapshot
from maniple_dispatcher.pipeline.pipeline import Pipeline
from maniple_policies import Resolved, parse_policy
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import LaneEnds, LaneOutcomes, Outcomes
from simulated_broker import (
    Broker,
    SimulatedInspector,
    SimulatedLink,
    SimulatedListener,
    SimulatedPublisher,
)
from simulated_cluster import metrics
from simulated_consul import Servers, SimulatedConsul
from virtual_time import Process, World

HELD: Any = SimpleNamespace(alive=True, expires=False)
"""A source message on an open connection."""
LANE = "text.stats"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAR = NOW + timedelta(hours=1)
SpecOf = Callable[[str], CircuitBreakerSpec | None]


def policy(kind: str, spec: dict[str, Any]) -> Any:
    """Return a policy called `it`."""
    return parse_policy({"kind": kind, "name": "it", "spec": spec})


@dataclass
class Became:
    """What became of tasks, and when."""

    sent: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    lanes: set[str] = field(default_factory=set)
    """Those to which tasks were sent."""
    waiting: list[Envelope] = field(default_factory=list)
    """Tasks that were held, as they wait in the broker."""
    watch: Callable[["Dispatcher"], object] = lambda _: None
    """Called with the dispatcher that sends a task to its lane."""


class Lanes:
    """In place of a dispatcher's lanes: records what reaches them."""

    def __init__(self, of: "Dispatcher", became: Became) -> None:
        self._of, self._became = of, became

    def ends(self, *_: object) -> bool:
        return False

    def admitted(self, _envelope: Envelope, _source: object, then: Callable[[], None]) -> None:
        then()

    def send_task(self, envelope: Envelope, *_: object) -> None:
        self._became.watch(self._of)
        self._became.lanes.add(envelope.lane)
        self._note(self._became.sent)

    def hold(self, envelope: Envelope, _source: object, why: Waiting) -> None:
        self._became.waiting.append(replace(envelope, waits=envelope.waits + 1, waited_for=why))
        self._note(self._became.held)

    def wait_on(
        self, envelope: Envelope, _source: object, why: Waiting | None = None, **_: object
    ) -> None:
        self._became.waiting.append(replace(envelope, waited_for=why or envelope.waited_for))
        self._note(self._became.held)

    def end_task(self, *_: object) -> None:
        self._note(self._became.ended)

    def learn_times(self, *_: object) -> None: ...

    def _note(self, where: list[float]) -> None:
        where.append(self._of.world.now)
        self._of.undecided -= 1


class Hot:
    """In place of a `HotPath`: two connections, of which the first listens."""

    def __init__(self, intake: SimulatedLink, outlet: SimulatedLink) -> None:
        self.intake, self._outlet = intake, outlet
        self.publisher = SimulatedPublisher(outlet)

    @property
    def up(self) -> bool:
        return self.intake.is_up and self._outlet.is_up


class Dispatcher:
    """A life of a dispatcher, in a process of its own; all its lives are the same `instance`."""

    def __init__(self, dispatchers: "Dispatchers", name: str, instance: str) -> None:
        self.world, self.dispatchers, self.name = dispatchers.world, dispatchers, name
        self.process = Process(dispatchers.world, name)
        self.consul = SimulatedConsul(dispatchers.consul, self.process)
        self._instance = instance
        self.undecided = 0
        self.resolved = Resolved()
        self.assignment = Assignment()
        self.lanes: Any = None
        self.process.step(self._begin)

    def make_lanes(self) -> Any:
        """Return its egress."""
        return Lanes(self, self.dispatchers.became)

    def _begin(self) -> None:
        link: Any = type("Link", (SimulatedLink,), {"broker": self.dispatchers.broker})
        intake, outlet = (
            link("", name=f"{self.name}.0.{purpose}", on_state=lambda _: None)
            for purpose in ("consume", "publish")
        )

        self.hot = Hot(intake, outlet)
        hot: Any = self.hot
        owned = LeaseOwner(
            self.dispatchers.spec_of,
            born=self._milliseconds,
            known=lambda: self.dispatchers.policies_known,
        )
        due = asyncio.Event()
        self.coordinator = Coordinator(
            self.name,
            owned,
            self.world.now,
            wake=due.set,
        )
        self.lanes = self.make_lanes()
        consul: Any = self.consul
        log = structlog.get_logger()
        self.memory = LimitSnapshot(
            consul,
            "maniple/dev",
            self._instance,
            coordinator=self.coordinator,
            log=log,
            clock=self.world.clock,
        )
        nothing: Any = None
        policies: Any = SimpleNamespace(resolve=lambda *_: self.resolved)
        self.pipeline = Pipeline(
            self.lanes,
            self.coordinator,
            policies,
            nothing,
            good=nothing,
            metrics=metrics(),
            clock=Clock(now=self.clock, monotonic=self.world.monotonic),
        )
        settings = SimpleNamespace(timings=Timings())
        runtime: Any = SimpleNamespace(
            settings=settings,
            metrics=metrics(),
            log=structlog.get_logger(),
            clock=self.world.clock,
        )
        self.gossip = gossip = Gossip(hot, self.coordinator, nothing, runtime, due)
        inspector: Any = SimulatedInspector(hot.intake)
        self.recount = BulkheadRecount(
            inspector, self.coordinator, self.assignment, self.world.monotonic
        )
        SimulatedListener(hot.intake, [(OUTCOMES.name, "")], gossip.on_report)
        handlers = DispatcherHandlers(self.lanes, self.coordinator, self.world.monotonic)
        intake.bindings.append(
            (OUTCOMES.name, "", lambda m: None if isinstance(m, tuple) else handlers.on_outcomes(m))
        )

        async def live() -> None:
            await intake.start(1.0)
            await outlet.start(1.0)
            self.process.create_task(self.memory.keep())
            await gossip.exchange_reports()

        self.process.run(live())

    def clock(self) -> datetime:
        """Return the time of day, which stands still."""
        return NOW

    def _milliseconds(self) -> int:
        return int(self.world.wall() * 1000)

    def admit(self, resolved: Resolved, tasks: int) -> None:
        """Admit tasks, while it lives and can be reached."""

        def come() -> None:
            self.resolved = resolved
            for number in range(tasks):
                task = Envelope(
                    id=str(number), capability=LANE, lane=LANE, submitted_at=NOW, deadline=FAR
                )
                self.undecided += 1
                self.pipeline.admit(task, resolved, HELD)

        self.world.after(0.0, come, self.process)

    def count_rooms(self) -> None:
        """Start counting tasks of bulkheads in queues."""
        self.process.step(lambda: self.process.create_task(self.recount.recount_bulkheads()))

    def again(self, envelopes: list[Envelope]) -> None:
        """Return tasks from a wait in the broker."""

        def come() -> None:
            for envelope in envelopes:
                self.undecided += 1
                self.pipeline.again(replace(envelope, not_before=None), HELD)

        self.world.after(0.0, come, self.process)


class Dispatchers:
    """Dispatchers that share limits and breakers."""

    kind = Dispatcher

    def __init__(self, world: World, spec_of: SpecOf = lambda _: None) -> None:
        self.world, self.spec_of = world, spec_of
        self.broker = Broker(world, lambda: world.between(0.001, 0.03))
        self.consul = Servers(world)
        self.became = Became()
        self.policies_known = True
        self.all: list[Dispatcher] = []
        self._patch = world.patch

    def __enter__(self) -> Self:
        self._patch.setattr(maniple_dispatcher.limits.gossip, "new_id", lambda: "")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def start(self, name: str, instance: str = "") -> Dispatcher:
        """Start one; its name is that of one life."""
        started = self.kind(self, name, instance or name)
        self.all.append(started)
        return started

    @property
    def alive(self) -> list[Dispatcher]:
        """Return those that were not killed."""
        return [one for one in self.all if not one.process.dead]

    def owner(self, key: str) -> Dispatcher:
        """Return the owner of a key, as the first living one sees it; that one if it sees none."""
        first = self.alive[0]
        name = first.coordinator.peers.owner(key)
        return next((one for one in self.all if one.name == name), first)

    def report(self, ends: LaneEnds) -> None:
        """Send an agent's report of how attempts have ended to all."""
        lanes = (LaneOutcomes(lane=LANE, ends=ends),)
        who = {"agent": AgentId("a"), "incarnation": Incarnation("1")}
        report = Outcomes(**who, sequence=1, sent_at=NOW, lanes=lanes)
        self.broker.copy(OUTCOMES.name, "", report)
