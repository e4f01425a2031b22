"""What a dispatcher's own work on a task costs, from the message it came in to its acknowledgement.

`uv run python -m bench.dispatching --bundle 128`: µs of processor time a task, median and minimum
of some rounds; the last line is JSON. No server is needed: the publisher confirms at once, so what
AMQP costs is not in the figures (`bench.hops` has that). `--policies 200` as in `bench.decisions`.
"""

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import uvloop
from bench.decisions import CAPABILITY, LABELS, policy_set
from pamqp.commands import Basic

from maniple.amqp import Delivery, Outgoing, Publisher
from maniple.clock import SYSTEM_CLOCK
from maniple.identifiers import new_id
from maniple.messages import TASK_TYPE
from maniple.timings import Timings
from maniple.topology import REPLY_PREFIX
from maniple_dispatcher.affinity.assignment import Assignment
from maniple_dispatcher.egress.lane_bundles import Readers
from maniple_dispatcher.egress.lane_deadlines import LaneDeadlines
from maniple_dispatcher.egress.lane_publisher import LanePublisher
from maniple_dispatcher.ingress.long_messages import LongMessages
from maniple_dispatcher.ingress.refusal_sender import RefusalSender
from maniple_dispatcher.ingress.submission import SubmissionConsumer
from maniple_dispatcher.limits.bulkhead_counts import BulkheadCounts
from maniple_dispatcher.limits.coordinator import Coordinator
from maniple_dispatcher.limits.lease_owner import LeaseOwner
from maniple_dispatcher.limits.messages import DispatcherReport
from maniple_dispatcher.pipeline.pipeline import Pipeline
from maniple_dispatcher.result_cache import ResultCache
from maniple_dispatcher.tracing import DispatchTracing
from maniple_policies import PolicySet
from maniple_policies.kinds.circuit_breaker import CircuitBreakerSpec
from maniple_runtime.publish.batch_publisher import ResultPublisher
from maniple_runtime.publish.refused_log import RefusedLog
from maniple_runtime.telemetry import Metrics
from maniple_runtime.telemetry.tracing import Tracer

ROUNDS = 15
TASKS = 6400
A_TURN = 512  # tasks that are taken in one turn of the loop
SPARE_TURNS = 3  # in which what was published is confirmed


class _Publisher:
    """Confirms whatever is published in the next turn of the loop."""

    async def publish(self, message: Outgoing, **_options: object) -> None:
        await self.start(message)

    def start(self, _message: Outgoing) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        confirm: asyncio.Future[None] = loop.create_future()
        loop.call_soon(confirm.set_result, None)
        return confirm


class _Delivery:
    """A message from outside that is to be acknowledged."""

    routing_key = CAPABILITY
    redelivered = False
    alive = True
    weight = 0

    def __init__(self, body: bytes, acknowledged: Callable[[], None]) -> None:
        self.body = body
        self.properties = Basic.Properties(
            message_type=TASK_TYPE,
            message_id=new_id(),
            reply_to=REPLY_PREFIX + new_id(),
            correlation_id=new_id(),
        )
        self.headers: dict[str, Any] = {}
        self.ack = acknowledged

    def lighten(self, weight: int) -> None:
        self.weight = weight


class Dispatcher:
    """A dispatcher from its submissions to its lanes, alone, with nobody around it."""

    def __init__(self, policies: PolicySet) -> None:
        """Decide by these policies."""
        metrics, clock = Metrics(), SYSTEM_CLOCK
        publisher = cast("Publisher", _Publisher())
        results = ResultPublisher(publisher, metrics, replier=publisher)
        traces = DispatchTracing(Tracer(), clock.now, ratio=0.0)
        wall = clock.now().timestamp()
        deadlines = LaneDeadlines(Timings().expiry, lambda _: True, wall)
        spec = CircuitBreakerSpec(consecutive=5)
        fleet = Coordinator("one", LeaseOwner(lambda _: spec), clock.monotonic(), lanes=deadlines)
        fleet.on_report(DispatcherReport(dispatcher="one", ready=True), clock.monotonic())
        self.lanes = LanePublisher(
            publisher,
            results,
            metrics,
            clock,
            assignment=Assignment(),
            traces=traces,
            bulkheads=BulkheadCounts(fleet, clock.monotonic),
            deadlines=deadlines,
            readers=Readers(records=True, bundles=True),
        )
        self.lanes.learn_times(CAPABILITY, 10_000, 1e-5)  # so that bundles are full
        pipeline = Pipeline(
            self.lanes,
            fleet,
            policies,
            results,
            good=ResultCache(),
            metrics=metrics,
            clock=clock,
        )
        self._submissions = SubmissionConsumer(
            pipeline.admit,
            RefusalSender(results, RefusedLog(publisher, metrics), metrics),
            policies,
            metrics,
            clock.now,
            traces=traces,
            long=LongMessages(clock.monotonic),
        )

    async def dispatch(self, messages: list[_Delivery], a_turn: int) -> None:
        """Bring what is in the messages to its lane, so many messages a turn of the loop."""
        for begin in range(0, len(messages), a_turn):
            for message in messages[begin : begin + a_turn]:
                self._submissions.on_submission(cast("Delivery", message))
            for _ in range(SPARE_TURNS):
                await asyncio.sleep(0)
        await self.lanes.drain_lanes()


def bodies(bundle: int) -> list[bytes]:
    """Return `TASKS` tasks in messages of so many."""
    tasks = [
        {"capability": CAPABILITY, "id": new_id(), "payload": number, "labels": LABELS}
        for number in range(TASKS)
    ]
    found = [tasks[begin : begin + bundle] for begin in range(0, TASKS, bundle)]
    return [json.dumps(one if bundle > 1 else one[0]).encode() for one in found]


async def measured(dispatcher: Dispatcher, bundle: int) -> float:
    """Return the µs of processor time a task."""
    acknowledged: list[None] = []
    messages = [_Delivery(body, lambda: acknowledged.append(None)) for body in bodies(bundle)]
    gc.collect()
    began = time.process_time()
    await dispatcher.dispatch(messages, max(1, A_TURN // bundle))
    used = time.process_time() - began
    if len(acknowledged) != len(messages):
        raise RuntimeError(f"{len(acknowledged)} of {len(messages)} are acknowledged")
    return used / TASKS * 1e6


async def run(rounds: int, bundle: int, policies: int) -> dict[str, float]:
    """Measure so often, after one round that does not count."""
    dispatcher = Dispatcher(policy_set(policies))
    gc.collect()
    gc.freeze()  # as a dispatcher does
    await measured(dispatcher, bundle)
    found = [await measured(dispatcher, bundle) for _ in range(rounds)]
    return {"us": round(statistics.median(found), 2), "min": round(min(found), 2)}


def main() -> None:
    """Print the figures as lines and, last, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--bundle", type=int, default=128, help="tasks a message")
    parser.add_argument("--policies", type=int, default=0)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run(given.rounds, given.bundle, given.policies))
    print(f"{given.bundle} tasks a message, {given.policies} policies")
    print(f"median {found['us']:6.2f} µs of processor time a task, least {found['min']:6.2f} µs")
    print(json.dumps({**vars(given), **found}))


if __name__ == "__main__":
    main()
