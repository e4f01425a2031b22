"""Where a task's time goes, stage by stage; `python -m bench.latency --stages` prints it.

The client tells when a task was due, when its bundle was sent and when its result came; the result
when a dispatcher took the task, when it began and when it ended; the agent's spans when it got the
task's bundle. All clocks are this machine's. Sampled are about 100 tasks a second, so that tracing
changes little.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bench import handlers
from bench.arrivals import Arrivals
from bench.figures import spread
from bench.handlers import CAPABILITY
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from maniple.client.carrier import AmqpCarrier
from maniple.client.core import Client
from maniple.client.handle import OutstandingHandles, Ticket
from maniple.identifiers import new_id
from maniple.messages import Result, Task
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions

SAMPLED = 100.0  # tasks a second
EXPORTED = 3.0  # seconds until spans have come
WARM_UP_SECONDS = 3.0
RATES = (200.0, 1000.0)
SECONDS = 10.0
WINDOW = 100_000
NANOSECONDS = 1e9
STAGES = (
    "client: due until its bundle is sent",
    "client to dispatcher",
    "dispatcher, and to the agent",
    "agent: queue",
    "agent: run",
    "agent to client, the result",
)
DISPATCHED = "of which until the lane has confirmed"
ALL = "due until result"


class StampedCarrier(AmqpCarrier):
    """The SDK's carrier, which also notes when a task was sent."""

    def __init__(self, url: str, outstanding: OutstandingHandles) -> None:
        """Send to `url`."""
        self.sent: dict[str, float] = {}
        super().__init__(url, outstanding, None)

    async def _send(self, bundle: list[Ticket]) -> None:
        at = time.time()
        self.sent.update((ticket.id, at) for ticket in bundle)
        await super()._send(bundle)


@dataclass(frozen=True)
class Moments:
    """When a task passed from one stage to the next, and when its lane was confirmed; seconds."""

    passed: tuple[float, ...]
    confirmed: float

    def stages(self) -> dict[str, float]:
        """Return the seconds of each stage, and of all."""
        pairs = zip(self.passed, self.passed[1:], strict=False)
        each = {name: end - begin for name, (begin, end) in zip(STAGES, pairs, strict=True)}
        taken = self.passed[2]
        return {**each, DISPATCHED: self.confirmed - taken, ALL: self.passed[-1] - self.passed[0]}


@dataclass
class Spans:
    """What was posted; decoded when all is over."""

    bodies: list[bytes] = field(default_factory=list)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve OTLP over HTTP on one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(size))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def decoded(self) -> Iterator[Span]:
        """Iterate over all spans."""
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    yield from scope.spans


def agent_times(spans: Iterable[Span]) -> dict[str, tuple[float, float]]:
    """Return by task id when its agent got it, and when its lane was confirmed."""
    received, links, confirmed = dict[bytes, float](), dict[str, bytes](), dict[str, float]()
    for span in spans:
        named = {pair.key: pair.value.string_value for pair in span.attributes}
        task = named.get("maniple.task.id", "")
        if span.name.startswith("receive "):
            received[span.span_id] = span.start_time_unix_nano / NANOSECONDS
        elif span.name.startswith("execute ") and span.links:
            links[task] = span.links[0].span_id
        elif span.name.startswith("dispatch "):
            confirmed[task] = span.end_time_unix_nano / NANOSECONDS
    return {
        task: (received[link], confirmed[task])
        for task, link in links.items()
        if link in received and task in confirmed
    }


def joined(
    due: Mapping[str, float],
    sent: Mapping[str, float],
    ended: Mapping[str, tuple[float, Result]],
    known: Mapping[str, tuple[float, float]],
) -> Iterator[Moments]:
    """Iterate over the tasks of which everything is known."""
    for task, (got, confirmed) in known.items():
        if task not in ended or task not in sent or task not in due:
            continue  # of the warm-up
        heard, result = ended[task]
        times = (result.dispatched_at, result.started_at, result.finished_at)
        taken, started, finished = (at.timestamp() if at else 0.0 for at in times)
        passed = (due[task], sent[task], taken, got, started, finished, heard)
        yield Moments(passed, confirmed)


async def measure(rate: float, seconds: float, agents: int) -> dict[str, dict[str, float]]:
    """Return percentiles of each stage's milliseconds at a fixed rate."""
    posted = Spans()
    server = await asyncio.start_server(posted.take, "127.0.0.1", 0)
    to = {"MANIPLE_OTLP_ENDPOINT": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}
    ratio = {"MANIPLE_TRACE_RATIO": str(min(1.0, SAMPLED / rate))}
    env = {"agent": to, "dispatcher": {**to, **ratio}}
    options = ClusterOptions(agents=agents, handlers=(handlers.__name__,), env=env)
    async with server, Cluster(options) as cluster:
        async with _stamped(cluster.ready_info()["client_url"]) as (carrier, client):
            await _load(client, Arrivals(rate, WARM_UP_SECONDS, time.time))
            due, ended = await _load(client, Arrivals(rate, seconds, time.time))
        await asyncio.sleep(EXPORTED)
    moments = [
        one.stages() for one in joined(due, carrier.sent, ended, agent_times(posted.decoded()))
    ]
    return {name: spread([one[name] for one in moments]) for name in moments[0]}


async def section(step: Callable[[str], None]) -> dict[str, list[dict[str, object]]]:
    """Return the stages at a low and a middle rate, as a section of the full form."""
    found: dict[str, list[dict[str, object]]] = {}
    for rate in RATES:
        stages = await measure(rate, SECONDS, agents=2)
        found[f"{rate:,g}/s"] = [{"ms": name, **one} for name, one in stages.items()]
        step(f"stages at {rate:,g}/s: p50 {stages[ALL]['p50']} ms from due to result")
    return found


@asynccontextmanager
async def _stamped(url: str) -> AsyncIterator[tuple[StampedCarrier, Client]]:
    outstanding = OutstandingHandles()
    carrier = StampedCarrier(url, outstanding)
    await carrier.connect(10.0)
    client = Client(carrier, outstanding, tenant="default")
    try:
        yield carrier, client
    finally:
        await client.close()


async def _load(
    client: Client, arrivals: Arrivals
) -> tuple[dict[str, float], dict[str, tuple[float, Result]]]:
    due, ended = dict[str, float](), dict[str, tuple[float, Result]]()

    async def tasks() -> AsyncIterator[Task]:
        async for number in arrivals:
            task_id = new_id()
            due[task_id] = arrivals.due(number)
            yield Task(capability=CAPABILITY, id=task_id)

    async for result in client.outcomes(tasks(), window=WINDOW, ordered=False):
        ended[result.id] = (time.time(), result)
    return due, ended
