"""One step in the life of some tasks, without a broker, in the release whose sources are found.

Run with the step's name; it reads what the step before has sent (JSON), and writes what it sends.
It uses nothing that only one of two neighbouring releases has; what one of them has elsewhere, or
under another name, stands in a table.
"""

import asyncio
import json
import sys
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from time import monotonic
from types import SimpleNamespace
from typing import Any

from maniple.client.handle import TaskHandle
from maniple.client.submission import encode_task
from maniple.codec import decode_envelopes
from maniple.errors import ErrorCode
from maniple.execution import failed
from maniple.messages import RESULTS_TYPE, Task
from maniple.topology import REPLY_PREFIX
from work_with_fakes import NOW, OK, Agent, Delivery, FakePublisher

CAPABILITY = "a.task"
IDS = ("one", "late", "fails", "two")
REPLY_TO = "maniple.replies.me"
Told = dict[str, Any]


def is_newer() -> bool:
    """Tell whether this is the present release."""
    return find_spec("maniple.open_enum") is not None


def of_release(now: str, before: str) -> Any:
    """Return what the present release has as `now`, and the previous one as `before`."""
    module, _, name = (now if is_newer() else before).rpartition(".")
    return getattr(import_module(module), name)


def member(thing: Any, now: str, before: str) -> Any:
    """Return the member of `thing` that the previous release calls `before`."""
    return getattr(thing, now if is_newer() else before)


AmqpCarrier = of_release("maniple.client.carrier.AmqpCarrier", "maniple.client.amqp.AmqpCarrier")
OutstandingHandles = of_release(
    "maniple.client.handle.OutstandingHandles", "maniple.client.outstanding.Outstanding"
)
Resolved = of_release("maniple_policies.Resolved", "maniple.service.policies.Resolved")
Metrics = of_release("maniple_runtime.telemetry.Metrics", "maniple.service.telemetry.Metrics")
NO_TRACER = of_release(
    "maniple_runtime.telemetry.tracing.NO_TRACER", "maniple.service.telemetry.tracing.NO_TRACER"
)
ResultPublisher = of_release(
    "maniple_runtime.publish.batch_publisher.ResultPublisher",
    "maniple.service.outlets.ResultOutlet",
)
RefusedLog = of_release(
    "maniple_runtime.publish.refused_log.RefusedLog", "maniple.service.refusals.RefusedLog"
)
SubmissionConsumer = of_release(
    "maniple_dispatcher.ingress.submission.SubmissionConsumer",
    "maniple_dispatcher.submissions.Submissions",
)
# In the previous release it stands in `submissions`, or is imported there.
RefusalSender = of_release(
    "maniple_dispatcher.ingress.refusal_sender.RefusalSender",
    "maniple_dispatcher.submissions.Refusals",
)
Assignment = of_release(
    "maniple_dispatcher.affinity.assignment.Assignment",
    "maniple_dispatcher.domain.affinity.Roster",
)
LanePublisher = of_release(
    "maniple_dispatcher.egress.lane_publisher.LanePublisher", "maniple_dispatcher.lanes.Lanes"
)
DispatchTracing = of_release(
    "maniple_dispatcher.tracing.DispatchTracing", "maniple_dispatcher.traces.Traces"
)
Properties = (
    import_module("maniple.amqp.wire.properties").Properties
    if is_newer()
    else import_module("pamqp.commands").Basic.Properties
)


def clock_of_lanes() -> Any:
    """Return what a way out is given: the time of day alone in the previous release."""
    if not is_newer():
        return lambda: NOW
    return import_module("maniple.clock").Clock(now=lambda: NOW)


def agents_of_lanes() -> dict[str, Any]:
    """Return what a way out knows agents by, under the name that its release has for that."""
    return {"assignment" if is_newer() else "roster": Assignment()}


def rooms_of_lanes() -> dict[str, Any]:
    """Return what a way out counts bulkheads by, which the previous release may do without."""
    return {"bulkheads": import_module("permits").bulkhead_counts()} if is_newer() else {}


def in_slices() -> dict[str, Any]:
    """Return what a dispatcher's way in is given for long messages, if it is given anything."""
    if not is_newer():
        return {}
    module = import_module("maniple_dispatcher.ingress.long_messages")
    return {"long": module.LongMessages(monotonic)}


def bodies(publisher: FakePublisher, exchange: str) -> list[str]:
    return [message.body.decode() for message in publisher.to(exchange)]


def handles() -> list[TaskHandle]:
    made = []
    for name in IDS:
        deadline = NOW - timedelta(hours=1) if name == "late" else None
        task = Task(capability=CAPABILITY, id=name, deadline=deadline)
        made.append(TaskHandle(name, "default", CAPABILITY, encode_task(task)))
    return made


async def submit(_: Told) -> Told:
    """Submit tasks in one message, as a client does."""
    bundle: list[Any] = list(handles())
    carrier = AmqpCarrier("amqp://nowhere", OutstandingHandles(), None)
    message = carrier._message(bundle, lambda: REPLY_TO)
    return {
        "body": message.body.decode(),
        "key": message.routing_key,
        "message_id": message.message_id,
    }


async def dispatch(told: Told) -> Told:
    """Dispatch a submission."""
    publisher, metrics = FakePublisher(), Metrics()
    results = ResultPublisher(publisher, metrics, replier=publisher)
    log = RefusedLog(publisher, metrics)
    traces = DispatchTracing(NO_TRACER, lambda: NOW, ratio=0.0)
    lanes = LanePublisher(
        publisher,
        results,
        metrics,
        clock_of_lanes(),
        traces=traces,
        **agents_of_lanes(),
        **rooms_of_lanes(),
    )
    policies: Any = SimpleNamespace(resolve=lambda *_: Resolved())
    way_in = SubmissionConsumer(
        lambda envelope, _, source, *__: member(lanes, "send_task", "send")(envelope, source),
        RefusalSender(results, log, metrics),
        policies,
        metrics,
        lambda: NOW,
        traces=traces,
        **in_slices(),
    )
    delivery: Any = Delivery(body=told["body"].encode())
    delivery.routing_key, delivery.headers = told["key"], {}
    delivery.properties = Properties(message_id=told["message_id"], reply_to=REPLY_TO)
    member(way_in, "on_submission", "take")(delivery)
    for part, drain in ((lanes, "drain_lanes"), (results, "drain_results"), (log, "drain_log")):
        await member(part, drain, "drain")()
    assert (delivery.acked, delivery.rejected) == (1, 0)
    return {
        "lanes": bodies(publisher, "maniple.lanes"),
        "replies": bodies(publisher, "maniple.replies"),
        "records": bodies(publisher, "maniple.results"),
    }


async def execute(told: Told) -> Told:
    """Run what arrives in a lane, as an agent does."""
    agent = Agent()
    for body in told["lanes"]:
        names = [one.id for one in decode_envelopes(body.encode())]
        delivery = Delivery(body=body.encode())
        await agent.take(delivery)
        for name in names:
            no = failed(ErrorCode.HANDLER_ERROR, "no", retryable=False)
            await agent.finish(name, no if name == "fails" else OK)
        assert (delivery.acked, delivery.rejected) == (1, 0)
    return {
        "replies": bodies(agent.publisher, "maniple.replies"),
        "records": bodies(agent.publisher, "maniple.results"),
    }


async def hear(told: Told) -> Told:
    """Receive the tasks' results, as the client that submitted them."""
    outstanding = OutstandingHandles()
    carrier = AmqpCarrier("amqp://nowhere", outstanding, None)
    submitted = handles()
    for handle in submitted:
        handle.message_id = told["message_id"]
        member(outstanding, "add_ticket", "add")(handle)
    for body in told["replies"]:
        delivery: Any = Delivery(body=body.encode())
        delivery.properties = SimpleNamespace(message_type=RESULTS_TYPE)
        address = getattr(carrier._replies, "address", "")  # the earlier release has none
        delivery.routing_key = address.removeprefix(REPLY_PREFIX)
        carrier._on_delivery(delivery)
    ends: Told = {}
    for handle in submitted:
        result = await handle.outcome(1)
        ends[handle.id] = [str(result.status), result.error and str(result.error.code)]
    return ends


PARTS = {"submit": submit, "dispatch": dispatch, "execute": execute, "hear": hear}

if __name__ == "__main__":
    said = asyncio.run(PARTS[sys.argv[1]](json.load(sys.stdin)))
    sys.stdout.write(json.dumps({"newer": is_newer(), "said": said}))
