"""Tasks under a bulkhead in virtual time: from dispatchers by queues to agents, and back.

Dispatchers are the product's own, from their pipeline to their lanes; the broker's queues and the
agents are simulated. A message that was delivered is redelivered when its consumer dies.
"""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Self

from msgspec.structs import replace

import maniple_dispatcher.egress.delay
import maniple_runtime.publish.batch_publisher
from maniple.amqp import QueueView
from maniple.clock import Clock
from maniple.codec import decode_envelopes, decode_results
from maniple.errors import PublishRefused
from maniple.messages import Envelope
from maniple.timings import Reports, Timings
from maniple.topology import (
    ADMITTED_KEY,
    AGENTS,
    DELAY,
    LANES,
    OUTCOMES,
    RESULTS,
    agent_queue,
    lane_queues,
)
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.arrival import Redelivery
from maniple_dispatcher.limits.bulkhead_counts import BulkheadCounts
from maniple_dispatcher.pipeline.verdicts import is_due
from maniple_dispatcher.tracing import DispatchTracing
from maniple_policies import Resolved
from maniple_runtime.control.field_types import AgentId
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import BulkheadLoad, Outcomes
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.confirm import Settlement
from maniple_runtime.telemetry.tracing import NO_TRACER
from simulated_broker import UNHEARD, SimulatedPublisher
from simulated_cluster import metrics
from simulated_dispatchers import LANE, NOW, Dispatcher, Dispatchers
from virtual_time import Process, World

PREFETCH = 4
FAILED = Timings().bounds.failed
FREED = 0.02
RECENT = 0.1  # seconds in which what an owner let through itself may not be known to others
NOTHING: Any = None


@dataclass(eq=False)
class Message:
    """A message in a queue: tasks, and whether its consumer died."""

    tasks: list[Envelope]
    redelivered: bool = False


@dataclass(eq=False)
class Source:
    """A submission, or a task that returns from a wait, as delivered to a dispatcher."""

    queues: "Queues"
    task: Envelope
    returned: bool
    before: Redelivery = Redelivery.UNKNOWN
    of: Dispatcher | None = None
    alive: bool = True
    expires: bool = False
    redelivered: bool = False

    def ack(self) -> None:
        """Settle it, unless it was redelivered to another consumer meanwhile."""
        if self.alive:
            self.queues.settled(self)

    reject = ack


class Publisher(SimulatedPublisher):
    """Publishes to queues that accept, refuse, or confirm nothing; records results."""

    queues: "Queues"

    async def publish(self, message: Any, *, timeout: float | None = None) -> None:
        refused: list[bool] = []

        def store() -> None:
            refused.append(not self.queues.take(message))

        if message.exchange == OUTCOMES.name:
            await super().publish(message, timeout=timeout)
            return
        while self.queues.keeps_waiting(message):  # noqa: ASYNC110 - told by nobody
            await asyncio.sleep(0.1)
        await self._link.wire.published(store, timeout)
        if refused[-1]:
            raise PublishRefused(message.exchange, message.routing_key, unroutable=False)


class Worker(Dispatcher):
    """A dispatcher with the product's own lanes."""

    def make_lanes(self) -> Any:
        publisher: Any = self.hot.publisher
        results = ResultPublisher(
            publisher, metrics(), replier=publisher, monotonic=self.world.monotonic
        )
        traces = DispatchTracing(NO_TRACER, self.clock, ratio=0.0)
        lanes = LanePublisher(
            publisher,
            results,
            metrics(),
            Clock(now=self.clock, monotonic=self.world.monotonic),
            assignment=self.assignment,
            traces=traces,
            bulkheads=BulkheadCounts(self.coordinator, self.world.monotonic),
        )
        self.sent: deque[tuple[float, str]] = deque(maxlen=1000)
        send = lanes.send_task

        def sending(envelope: Envelope, source: Settlement, *, alone: bool = False) -> None:
            if self.coordinator.peers.owns(envelope.bulkhead or ""):
                self.sent.append((self.world.now, envelope.id))
            send(envelope, source, alone=alone)

        lanes.send_task = sending  # type: ignore[method-assign]  # to see who let what through when
        return lanes

    def clock(self) -> datetime:
        return NOW + timedelta(seconds=self.world.now)

    def live(self) -> None:
        """Run what happens besides messages."""
        self.process.step(lambda: self.process.create_task(self.recount.recount_bulkheads()))

        def look() -> None:
            self.lanes.redirect_overdue(taking=self.hot.up)
            self.world.after(0.5, look, self.process)

        self.process.step(look)


@dataclass(eq=False)
class Bundle:
    """A delivery that an agent has not acknowledged; `ended` of its tasks have ended.

    Those `moved` have taken their room with them to a lane.
    """

    message: Message
    rest: int
    ended: Counter[str] = field(default_factory=Counter)
    moved: set[str] = field(default_factory=set)
    settled: bool = False
    """Its acknowledgement is under way, and its report of the end will be or has been received."""


class Agent:
    """An agent that takes bundles, runs tasks, and reports; it may die, and start a new life."""

    def __init__(self, queues: "Queues", name: str) -> None:
        self.queues, self.world, self.name = queues, queues.world, name
        self.life = 0
        self.begin()

    def begin(self) -> None:
        """Start a new life."""
        self.life += 1
        self.process = Process(self.world, f"{self.name}.{self.life}")
        self.wire = self.queues.broker.connect(self.process, self.process.name)
        self.wire.connect()
        self.unacked: list[Bundle] = []  # as the broker has it
        self.here: list[Bundle] = []
        self.ended: Counter[str] = Counter()
        self.running = 0
        self.alive = True
        self.had_load = False
        self.sequence = 0
        self.told_at = 0.0
        self._report(self.life)
        self.queues.tell_begun(self)
        self.queues.deliver()

    # --- what it does --------------------------------------------------------------------

    def take(self, bundle: Bundle) -> None:
        """Accept a delivery."""
        if not self.alive:
            return
        self.here.append(bundle)
        for task in bundle.message.tasks:
            if bundle.message.redelivered or self.world.random.random() < 0.03:
                lost = task.lost + bundle.message.redelivered
                self._move(bundle, replace(task, lost=lost))
            else:
                seconds = self.world.between(0.02, 1.0)
                self.world.after(seconds, partial(self._end, bundle, task, self.life), self.process)

    def _move(self, bundle: Bundle, task: Envelope) -> None:
        """Hand a task back to its lane, with its room."""

        def there() -> None:
            if bundle in self.unacked:
                bundle.moved.add(task.id)
            else:  # somebody else has been given it by now
                self.queues.twice.append(task.id)
            self.queues.put(lane_queues(LANE)[task.lost >= 2].name, Message([task]))
            self.wire.to_process(partial(self._done, bundle))

        self.wire.to_broker(there)

    def _end(self, bundle: Bundle, task: Envelope, life: int) -> None:
        if life != self.life or not self.alive:
            return
        again = self.world.random.random() < 0.1

        def there() -> None:
            if again:
                self.queues.wait(replace(task, attempt=task.attempt + 1), 0.5)
            else:
                self.queues.ended.add(task.id)
            if task.bulkhead is not None:
                bundle.ended[task.bulkhead] += 1
            self.wire.to_process(partial(self._done, bundle))

        self.wire.to_broker(there)

    def _done(self, bundle: Bundle) -> None:
        bundle.rest -= 1
        if bundle.rest or bundle not in self.here:
            return
        self.here.remove(bundle)
        bundle.settled = True
        self.ended += bundle.ended

        def there() -> None:
            if bundle in self.unacked:
                self.unacked.remove(bundle)
                self.queues.deliver()

        self.wire.to_broker(there)
        self.world.after(FREED, self.report, self.process)

    def _report(self, life: int) -> None:
        if life != self.life:
            return
        if self.world.now - self.told_at >= Reports().period:
            self.report()
        self.world.after(Reports().period, partial(self._report, life), self.process)

    def report(self) -> None:
        """Report to dispatchers what it has and what has ended."""
        here = Counter(
            task.bulkhead for one in self.here for task in one.message.tasks if task.bulkhead
        )
        ended, self.ended = self.ended, Counter()
        loads = tuple(
            BulkheadLoad(key=key, here=here[key], ended=ended[key])
            for key in sorted({*here, *ended})
        )
        if not (loads or self.had_load):
            return
        self.had_load, self.told_at = bool(loads), self.world.now
        self.sequence += 1
        report = Outcomes(
            agent=AgentId(self.name),
            incarnation=Incarnation(str(self.life)),
            sequence=self.sequence,
            sent_at=NOW,
            bulkheads=loads,
        )
        self.wire.to_broker(lambda: self.queues.broker.copy(OUTCOMES.name, "", report))

    # --- what may be done to it ----------------------------------------------------------

    def kill(self) -> None:
        """Kill it; another life starts soon."""
        self.process.kill()
        self.wire.end()
        self.over(self.world.between(0.05, 1.0))

    def freeze(self, seconds: float) -> None:
        """Freeze it; after a while it is failed, and the broker has back what it had."""
        self.process.freeze(seconds)
        given_up = min(FAILED, self.world.between(*UNHEARD)) + self.world.between(0.0, 1.0)
        if seconds > given_up:
            life = self.life
            self.world.after(given_up, lambda: self.over(0.0) if self.life == life else None)

    def cut(self, seconds: float) -> None:
        """Cut it off for so long, in both directions."""
        self.wire.cut(min(seconds, 5.0))

    def over(self, told_after: float) -> None:
        """Return its deliveries to their queues, and start anew later."""
        if not self.alive:
            return
        self.world.tell(f"{self.process.name} is over")
        self.alive = False
        self.process.dead = True
        for bundle in self.unacked:
            self.queues.twice += [
                task.id
                for task in bundle.message.tasks
                if bundle.settled or task.id in bundle.moved
            ]
            self.queues.back(bundle.message)
        self.unacked = []
        self.queues.deliver()
        self.world.after(told_after, partial(self.queues.tell_gone, self.name, self.life))
        self.world.after(self.world.between(2.0, 6.0), self.begin)


class Queues:
    """The broker's queues, the agents that read them, and what became of each task."""

    def __init__(self, world: World, resolved: Resolved, *, affinity: bool, agents: int) -> None:
        self.world = world
        self.resolved = resolved
        self.affinity = affinity
        self.dispatchers = type("Workers", (Dispatchers,), {"kind": Worker})(world)
        self.broker = self.dispatchers.broker
        self.ready: dict[str, deque[Message]] = {}
        self.refusing: set[str] = set()
        self.records_are_silent = False
        """Whether no record of an admission is confirmed."""
        self.submitted: list[str] = []
        self.ended: set[str] = set()
        """Tasks that agents have run."""
        self.refused: set[str] = set()
        """Tasks that dispatchers have ended."""
        self.sources: list[Source] = []
        self.excused: set[str] = set()
        self.twice: list[str] = []
        """Tasks whose room is given back twice: they had ended or moved with an agent that died
        before its acknowledgement was there."""
        self.agents: list[Agent] = []
        self._wanted = agents

    def __enter__(self) -> Self:
        self.dispatchers.__enter__()
        patch = self.world.patch
        publisher = type("Publishes", (Publisher,), {"queues": self})
        patch.setattr("simulated_dispatchers.SimulatedPublisher", publisher)
        patch.setattr(maniple_dispatcher.egress.delay, "new_id", lambda: "")
        patch.setattr(maniple_runtime.publish.batch_publisher, "new_id", lambda: "")
        for lane in lane_queues(LANE):
            self.ready[lane.name] = deque()
        self.agents += [Agent(self, f"a{number}") for number in range(self._wanted)]
        self.show()
        return self

    def __exit__(self, *_: object) -> None: ...

    def start(self, name: str) -> Worker:
        """Start a dispatcher."""
        started: Any = self.dispatchers.start(name)
        started.resolved = self.resolved
        started.live()
        for agent in self.agents:
            if agent.alive:
                self._registers(started, agent)
        return started  # type: ignore[no-any-return]  # as `kind` says

    @property
    def workers(self) -> list[Worker]:
        """Return the dispatchers that live."""
        alive: Any = self.dispatchers.alive
        return alive  # type: ignore[no-any-return]  # as `kind` says

    # --- queues --------------------------------------------------------------------------

    def take(self, message: Any) -> bool:
        """Accept what a dispatcher publishes; False if it is refused."""
        if message.exchange == DELAY.name:
            for task in decode_envelopes(message.body):
                self.wait(task, float(message.routing_key))
        elif message.exchange in {LANES.name, AGENTS.name}:
            kind = "lane" if message.exchange == LANES.name else "agent"
            name = f"maniple.{kind}.{message.routing_key}"
            if name in self.refusing:
                return False
            self.put(name, Message(decode_envelopes(message.body)))
        elif message.exchange == RESULTS.name and message.routing_key != ADMITTED_KEY:
            self.refused.update(result.id for result in decode_results(message.body))
        return True

    def keeps_waiting(self, message: Any) -> bool:
        """Tell whether what a dispatcher publishes is not confirmed yet."""
        return self.records_are_silent and message.routing_key == ADMITTED_KEY

    def put(self, queue: str, message: Message) -> None:
        """Store a message."""
        self.ready.setdefault(queue, deque()).append(message)
        self.deliver()

    def back(self, message: Message) -> None:
        """Take back the deliveries of a dead consumer; of an agent also its own queue."""
        name = lane_queues(LANE)[message.tasks[0].lost >= 2].name
        message.redelivered = True
        self.ready[name].appendleft(message)

    def deliver(self) -> None:
        """Deliver to consumers with capacity."""
        agents = [agent for agent in self.agents if agent.alive and agent.wire.up]
        self.world.random.shuffle(agents)
        for agent in agents:
            for name in (agent_queue(agent.name).name, *(one.name for one in lane_queues(LANE))):
                messages = self.ready.get(name, deque())
                while messages and len(agent.unacked) < PREFETCH:
                    message = messages.popleft()
                    bundle = Bundle(message, len(message.tasks))
                    agent.unacked.append(bundle)
                    agent.wire.to_process(partial(agent.take, bundle))
        self.show()

    def show(self) -> None:
        """Publish the state of the queues."""
        readers = sum(agent.alive for agent in self.agents)
        for name, messages in self.ready.items():
            self.broker.queues[name] = QueueView(len(messages), max(1, readers))
        for agent in self.agents:
            name = agent_queue(agent.name).name
            self.broker.queues[name] = QueueView(len(self.ready.get(name, ())), 1)

    def wait(self, task: Envelope, seconds: float) -> None:
        """Return a task after some seconds."""
        source = Source(self, task, returned=True)
        self.world.after(seconds, partial(self._bring, source))

    # --- dispatchers ---------------------------------------------------------------------

    def submit(self, affinity: str | None) -> None:
        """Deliver a task to a dispatcher."""
        name = f"t{len(self.submitted)}"
        self.submitted.append(name)
        task = Envelope(
            id=name,
            capability=LANE,
            lane=LANE,
            submitted_at=NOW,
            deadline=NOW + timedelta(days=1),
            affinity=affinity,
        )
        self._bring(Source(self, task, returned=False))

    def _bring(self, source: Source) -> None:
        able = [one for one in self.workers if self.broker.reaches(one.process)]
        if not able:
            self.world.after(0.2, partial(self._bring, source))
            return
        one = source.of = self.world.random.choice(able)
        self.sources.append(source)
        wire = self.broker.of(one.process)[0]
        wire.to_process(partial(self._admit, one, source))

    def _admit(self, one: Worker, source: Source) -> None:
        if not source.alive:
            return
        delivery: Any = source
        settlement = Settlement(delivery, 1)
        if not source.returned:
            one.pipeline.admit(source.task, self.resolved, settlement, source.before)
            return
        task = replace(source.task, bulkhead=None)
        if is_due(task, one.clock()):
            one.pipeline.again(replace(task, not_before=None), settlement)
        else:
            one.lanes.wait_on(task, settlement)

    def settled(self, source: Source) -> None:
        """Apply an acknowledgement; one under way when its process dies still arrives."""
        source.alive = False
        self.sources.remove(source)

    def kill(self, one: Worker) -> None:
        """Kill a dispatcher: its deliveries go to others; its latest grants are not known there."""
        now = self.world.now
        self.excused.update(task for at, task in one.sent if now - at <= RECENT)
        self.broker.kill(one.process)
        for source in [each for each in self.sources if each.of is one]:
            source.alive = False
            self.sources.remove(source)
            again = Source(self, source.task, source.returned, Redelivery.DELIVERED)
            self.world.after(0.05, partial(self._bring, again))

    # --- agents' events ------------------------------------------------------------------

    def tell_begun(self, agent: Agent) -> None:
        """Tell all dispatchers that a life has started."""
        for one in self.workers:
            self._registers(one, agent)

    def _registers(self, one: Worker, agent: Agent) -> None:
        lanes = frozenset({LANE} if self.affinity else ())
        name, life = agent.name, str(agent.life)

        def heard() -> None:
            one.assignment.registered(name, life, lanes)
            one.coordinator.owned.bulkheads.gone(name, life, itself=False)

        self.world.after(self.world.between(0.0, 0.05), heard, one.process)

    def tell_gone(self, name: str, life: int) -> None:
        """Tell all dispatchers that a life is over."""

        def heard(one: Worker) -> None:
            one.assignment.gone(name, str(life))
            one.coordinator.owned.bulkheads.gone(name, str(life))

        for one in self.workers:
            self.world.after(self.world.between(0.0, 0.05), partial(heard, one), one.process)

    # --- what is true --------------------------------------------------------------------

    def in_flight(self) -> set[str]:
        """Return the tasks that are in queues or with agents."""
        queued = (task.id for queue in self.ready.values() for one in queue for task in one.tasks)
        held = (
            task.id
            for agent in self.agents
            for bundle in agent.unacked
            for task in bundle.message.tasks
            if task.id not in bundle.moved  # it takes its room where it is by now
        )
        return {*queued, *held}
