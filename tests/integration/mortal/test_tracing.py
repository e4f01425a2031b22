"""The trace of a task, as an OTLP endpoint gets it from a real cluster."""

import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ending import launched
from local_servers import SharedServers
from maniple import connect
from maniple.topology import LANES, RESULTS
from maniple_cli.control import operator_plane
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.dev_cluster.http import fetch
from maniple_runtime.metric_names import QUEUE_SECONDS, RUN_SECONDS
from outsider import Outsider
from paths import PYTHONPATH
from policy_world import World
from scraping import openmetrics, scrape
from span_collector import Seen, SpanCollector
from waiting import wait_until

SPAN = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[SpanCollector]:
    with SpanCollector().serving() as serving:
        yield serving


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster(collector: SpanCollector, shared: SharedServers) -> AsyncIterator[Cluster]:
    """Two agents and a dispatcher that sample nothing of their own accord."""
    debug = {"MANIPLE_LOG_LEVEL": "debug"}
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **debug}
    env = {
        "dispatcher": {**endpoint, "MANIPLE_TRACE_RATIO": "0"},
        "agent": {
            **endpoint,
            "PYTHONPATH": PYTHONPATH,
            "MANIPLE_PROCESSES": "1",
            "MANIPLE_VARIANTS": "shadow",
        },
    }
    options = ClusterOptions(
        agents=2, registries=1, handlers=("tracing_handlers", "sample_handlers"), env=env
    )
    async with Cluster(options, broker=shared.broker("tracing")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def world(cluster: Cluster, tmp_path: Path) -> AsyncIterator[World]:
    """What changes policies."""
    info = cluster.ready_info()
    async with (
        connect(info["client_url"]) as client,
        operator_plane(info["operator_url"]) as plane,
    ):
        yield World(cluster, client, plane, tmp_path)


def a_trace() -> tuple[str, str]:
    """Return the id of a new trace, and its traceparent, sampled."""
    trace_id = uuid.uuid4().hex
    return trace_id, f"00-{trace_id}-{SPAN}-01"


def named(spans: list[Seen], name: str) -> list[Seen]:
    return [span for span in spans if span.name == name]


async def ends(collector: SpanCollector, trace_id: str, root: str = SPAN) -> list[Seen]:
    """Return the spans of a trace once its result is sent and no span is without its parent."""

    def whole() -> bool:
        spans = collector.of_trace(trace_id)
        known = {root, "", *(span.span_id for span in spans)}
        is_sent = bool(named(spans, "send result"))
        return is_sent and all(span.parent_id in known for span in spans)

    await wait_until(whole, seconds=20)
    return collector.of_trace(trace_id)


async def test_the_tree_of_a_task_whose_publisher_has_a_trace(
    outsider: Outsider, collector: SpanCollector
) -> None:
    trace_id, given = a_trace()
    result = outsider.ask(
        "test.double", {"payload": 2, "id": "one"}, headers={"traceparent": given}
    )
    assert result["traceparent"] == given
    dispatch, queue, execute, send = await ends(collector, trace_id)
    assert [(s.name, s.kind) for s in (dispatch, queue, execute, send)] == [
        ("dispatch test.double", "consumer"),
        ("queue test.double", "internal"),
        ("execute test.double", "consumer"),
        ("send result", "producer"),
    ]
    assert dispatch.parent_id == SPAN
    assert {queue.parent_id, execute.parent_id} == {dispatch.span_id}
    assert send.parent_id == execute.span_id
    assert (queue.start, queue.end) == (dispatch.start, execute.start)
    assert queue.end <= execute.end <= send.end
    assert dispatch.resource["service.name"] == "maniple-dispatcher"
    assert execute.resource["service.name"] == "maniple-agent"
    assert execute.resource["service.instance.id"] == result["agent"]


async def test_spans_carry_the_current_names_of_attributes(
    outsider: Outsider, collector: SpanCollector
) -> None:
    trace_id, given = a_trace()
    task_id = str(uuid.uuid4())
    correlation = outsider.send(
        "test.double", {"payload": 2, "id": task_id}, headers={"traceparent": given}
    )
    outsider.wait(correlation)
    dispatch, _, execute, send = await ends(collector, trace_id)
    for span, operation, place in (
        (dispatch, ("process", "dispatch"), "maniple.submit"),
        (execute, ("process", "execute"), LANES.name),
        (send, ("send", "send"), RESULTS.name),
    ):
        said = span.attributes
        assert said["messaging.system"] == "rabbitmq"
        assert said["messaging.operation.type"] == operation[0]
        assert said["messaging.operation.name"] == operation[1]
        assert said["messaging.destination.name"] == place
        assert said["messaging.message.conversation_id"] == correlation
        assert (said["maniple.task.id"], said["maniple.lane"]) == (task_id, "test.double")


async def test_a_malformed_traceparent_starts_a_new_trace(
    outsider: Outsider, collector: SpanCollector
) -> None:
    result = outsider.ask("trace.fail", {"traceparent": "nonsense", "id": "malformed"})
    trace_id = result["traceparent"][3:35]
    dispatch, *_ = await ends(collector, trace_id)
    assert (dispatch.name, dispatch.parent_id) == ("dispatch trace.fail", "")


async def test_an_error_is_kept_though_nothing_is_sampled(
    outsider: Outsider, collector: SpanCollector
) -> None:
    good = outsider.ask("test.double", {"payload": 1, "id": "unsampled"})
    bad = outsider.ask("trace.fail", {"id": "failed"})
    dispatch, queue, execute, send = await ends(collector, bad["traceparent"][3:35])
    assert (dispatch.parent_id, dispatch.attributes["maniple.kept_late"]) == ("", True)
    assert queue.parent_id == execute.parent_id == dispatch.span_id
    assert send.parent_id == execute.span_id
    assert execute.failed
    assert execute.attributes["error.type"] == "handler_error"
    assert bad["traceparent"].endswith("-01")
    assert good["traceparent"].endswith("-00")
    assert not collector.of_trace(good["traceparent"][3:35])


async def test_what_ends_at_the_dispatcher_is_kept(
    outsider: Outsider, collector: SpanCollector
) -> None:
    result = outsider.ask("nobody.traces.this", {"ttl": 1.2})
    spans = await ends(collector, result["traceparent"][3:35])
    (dispatch,) = named(spans, "dispatch nobody.traces.this")
    assert dispatch.failed
    assert dispatch.attributes["error.type"] == "deadline_exceeded"
    assert dispatch.attributes["maniple.task.status"] == "expired"


async def test_a_retry_stays_in_its_trace(outsider: Outsider, collector: SpanCollector) -> None:
    result = outsider.ask("trace.flaky", {"id": "retried"})
    assert result["output"] == 2
    spans = await ends(collector, result["traceparent"][3:35])
    first, second = named(spans, "execute trace.flaky")
    assert first.failed
    assert "maniple.retry.delay" in first.events["retry"]
    assert [s.attributes["maniple.task.attempt"] for s in (first, second)] == [1, 2]
    one, two = named(spans, "dispatch trace.flaky")
    (wait,) = named(spans, "wait trace.flaky")
    assert (one.parent_id, two.parent_id, wait.parent_id) == ("", one.span_id, one.span_id)
    assert (first.parent_id, second.parent_id) == (one.span_id, two.span_id)
    # It waits from the end of the attempt on, whose span is written a moment later.
    assert first.start < wait.start < wait.end <= min(two.end, second.start)
    assert len({span.span_id for span in spans}) == len(spans)


@pytest.mark.parametrize("executor", ["loop", "thread", "process"])
async def test_a_handlers_own_span_is_a_child_of_its_attempt(
    outsider: Outsider, collector: SpanCollector, executor: str
) -> None:
    trace_id, given = a_trace()
    outsider.ask(f"trace.{executor}", {"payload": 1}, headers={"traceparent": given})
    await wait_until(lambda: bool(named(collector.of_trace(trace_id), "look up")))
    spans = await ends(collector, trace_id)
    (own,) = named(spans, "look up")
    (execute,) = named(spans, f"execute trace.{executor}")
    assert own.parent_id == execute.span_id
    assert own.attributes == {"executor": executor}
    assert execute.start <= own.end <= execute.end


async def test_a_migration_after_a_kill_is_in_the_trace(
    cluster: Cluster, outsider: Outsider, collector: SpanCollector, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    task = {"payload": str(hold), "id": "moved", "timeout": 300}
    correlation = outsider.send("trace.hold", task)
    victim = await _holder(cluster)
    os.kill(victim, signal.SIGKILL)
    hold.unlink()
    (result,) = outsider.wait(correlation, seconds=40)
    assert (result["status"], result["lost"]) == ("succeeded", 1)
    spans = await ends(collector, result["traceparent"][3:35])
    (dispatch,) = named(spans, "dispatch trace.hold")
    (migrate,) = named(spans, "migrate trace.hold")
    (execute,) = named(spans, "execute trace.hold")
    assert (migrate.parent_id, migrate.failed) == (dispatch.span_id, True)
    assert migrate.attributes["maniple.migration.reason"] == "redelivered"
    assert execute.parent_id == dispatch.span_id
    assert execute.attributes["maniple.task.lost"] == 1
    assert migrate.end <= execute.start
    await wait_until(lambda: answers(cluster), seconds=60)


async def answers(cluster: Cluster) -> bool:
    """Tell whether both agents are there (again): the tests that follow ask them."""
    found = [await fetch(f"{agent.http}/health") for agent in cluster.of_service("agent")]
    return all(status == 200 for status, _ in found)


async def _holder(cluster: Cluster) -> int:
    """Return the process id of the agent that runs something in a thread."""
    found: list[int] = []

    def looks() -> bool:
        agents = cluster.of_service("agent")
        found.extend(a.pid for a in agents if scrape([a]).get("maniple_in_flight", 0) > 0)
        return bool(found)

    await wait_until(looks)
    return found[0]


async def test_tasks_of_a_bundle_are_linked(outsider: Outsider, collector: SpanCollector) -> None:
    traces = [a_trace() for _ in range(40)]
    warm = outsider.send("batch", [{"capability": "test.double", "payload": 1}] * 400)
    outsider.wait(warm, 400)

    async def bundled() -> bool:
        tasks = [
            {"capability": "test.double", "payload": 1, "traceparent": given} for _, given in traces
        ]
        outsider.wait(outsider.send("batch", tasks), len(tasks))
        return bool(named(collector.spans, "receive maniple.lanes"))

    await wait_until(bundled, seconds=20)
    await wait_until(lambda: any(s.links for s in named(collector.spans, "execute test.double")))
    execute = next(s for s in named(collector.spans, "execute test.double") if s.links)
    receive = next(s for s in collector.spans if (s.trace_id, s.span_id) == execute.links[0])
    assert (receive.kind, receive.parent_id) == ("client", "")
    assert receive.attributes["messaging.batch.message_count"] >= 2
    assert (execute.trace_id, execute.parent_id) in receive.links


async def test_a_fallback_is_an_event_of_the_dispatch(
    world: World, outsider: Outsider, collector: SpanCollector
) -> None:
    limit = {"limit": 1, "period": 3600, "burst": 1, "over": "reject"}
    match: Any = {"capability": "trace.loop"}
    value = {"on": ["rate_limited"], "value": "instead"}
    async with (
        world.policy("rate_limit", "traced", limit, match=match),
        world.policy("fallback", "traced", value, match=match),
    ):
        outsider.ask("trace.loop", {"payload": 1})
        trace_id, given = a_trace()
        result = outsider.ask("trace.loop", {"payload": 1}, headers={"traceparent": given})
    assert result["output"] == "instead"
    dispatch, send = await ends(collector, trace_id)
    assert dispatch.attributes["maniple.fallback"] == "fallback/traced"
    assert any(p.startswith("fallback/traced@") for p in dispatch.attributes["maniple.policies"])
    assert "fallback" in dispatch.events
    assert send.parent_id == dispatch.span_id


async def test_a_mirror_has_a_trace_of_its_own_that_is_linked(
    world: World, outsider: Outsider, collector: SpanCollector
) -> None:
    spec = {"variant": "shadow", "percent": 100}
    async with world.policy("mirror", "traced", spec, match={"capability": "trace.loop"}):
        trace_id, given = a_trace()
        task = {"payload": 1, "id": "mirrored"}
        outsider.ask("trace.loop", task, headers={"traceparent": given})
        await wait_until(lambda: bool(collector.of_task("mirrored~mirror")), seconds=20)
    original = named(await ends(collector, trace_id), "dispatch trace.loop")[0]
    copy = named(collector.of_task("mirrored~mirror"), "dispatch trace.loop")[0]
    assert copy.trace_id != trace_id
    assert copy.links == ((trace_id, original.span_id),)
    assert copy.attributes["maniple.mirror_of"] == "mirrored"


async def test_a_program_that_traces_has_its_submissions_in_its_trace(
    cluster: Cluster, collector: SpanCollector
) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("a program")
    async with connect(cluster.ready_info()["client_url"], tracer=tracer) as client:
        with tracer.start_as_current_span("order"):
            one = await client.submit("test.double", 1)
            await one.result(timeout=60)
        assert [n async for n in client.map("test.double", range(3))] == [0, 2, 4]
    first, order, *mapped = kept.get_finished_spans()
    assert (first.name, first.kind.name) == ("send maniple.tasks", "PRODUCER")
    assert first.parent is not None
    assert order.context is not None
    assert first.parent.span_id == order.context.span_id
    assert [span.name for span in mapped] == ["send maniple.tasks"] * 3
    assert first.context is not None
    sent = f"{first.context.span_id:016x}"
    spans = await ends(collector, f"{first.context.trace_id:032x}", sent)
    (dispatch,) = named(spans, "dispatch test.double")
    assert dispatch.parent_id == sent


async def test_measured_times_lead_to_their_traces(
    cluster: Cluster, outsider: Outsider, collector: SpanCollector
) -> None:
    trace_id, given = a_trace()
    outsider.ask("trace.thread", {"payload": 1}, headers={"traceparent": given})
    await ends(collector, trace_id)
    families = [f for agent in cluster.of_service("agent") for f in openmetrics(agent)]
    for metric in (RUN_SECONDS, QUEUE_SECONDS):
        found = [
            sample.exemplar.labels
            for family in families
            if family.name == metric.name
            for sample in family.samples
            if sample.exemplar and sample.labels["capability"] == "trace.thread"
        ]
        assert {"trace_id": trace_id} in found


@pytest.mark.parametrize("executor", ["loop", "thread", "process"])
async def test_every_line_of_a_handler_says_which_task_it_is_about(
    cluster: Cluster, outsider: Outsider, executor: str
) -> None:
    result = outsider.ask(f"trace.log_{executor}", {"payload": 1})
    log = cluster.data_dir / "logs" / f"{result['agent']}.log"

    def told() -> list[dict[str, Any]]:
        text = log.read_text()
        whole = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in whole if result["id"] in line]

    await wait_until(lambda: len(told()) == 2)
    assert {line["event"] for line in told()} == {"by the standard library", "by its context"}
    for line in told():
        assert line["trace_id"] == result["traceparent"][3:35]
        assert (line["task_id"], line["instance"]) == (result["id"], result["agent"])


async def test_the_log_level_changes_while_everything_runs(cluster: Cluster) -> None:
    await set_level(cluster, "warning", "registry")
    await wait_until(lambda: '"log level changed"' in log_of(cluster, "registry-1"))
    assert '"log level changed"' not in log_of(cluster, "policy-1")
    await set_level(cluster, "default", "registry")
    await wait_until(lambda: log_of(cluster, "registry-1").count("log level changed") == 2)


async def set_level(cluster: Cluster, level: str, target: str) -> None:
    info = cluster.ready_info()
    where = ["--broker-url", info["operator_url"], "--consul-url", info["consul_url"]]
    command = Path(sys.executable).parent / "maniple"
    async with launched(command, "log-level", level, target, *where) as process:
        assert await process.wait() == 0


def log_of(cluster: Cluster, instance: str) -> str:
    return (cluster.data_dir / "logs" / f"{instance}.log").read_text()


async def test_no_log_has_a_payload_or_a_password(cluster: Cluster, outsider: Outsider) -> None:
    marker = f"marker{uuid.uuid4().hex}"
    for capability in ("test.double", "test.raise", "trace.process", "test.nan", "test.hang"):
        outsider.ask(capability, {"payload": [marker]})
    outsider.ask("test.double", {"payload": marker, "colour": marker})
    outsider.ask("test.double", f'["{marker}'.encode())
    info = cluster.ready_info()
    urls = ("broker_url", "operator_url", "client_url", "management_url")
    secrets = {urlsplit(info[name]).password for name in urls}
    text = "".join(log_of(cluster, process.instance) for process in cluster.processes)
    assert '"level": "debug"' in text
    for secret in (marker, *filter(None, secrets)):
        assert secret not in text


async def test_without_its_collector_everything_goes_on(
    cluster: Cluster, outsider: Outsider, collector: SpanCollector
) -> None:
    """The last test of this module: it takes the collector away."""
    collector.stop()
    for _ in range(5):
        _, given = a_trace()
        result = outsider.ask("test.double", {"payload": 1}, headers={"traceparent": given})
        assert result["output"] == 2
    processes = [*cluster.of_service("agent"), *cluster.of_service("dispatcher")]
    await wait_until(lambda: scrape(processes).get("maniple_spans_dropped_total", 0) > 0, 30)
    for process in processes:
        status, _ = await fetch(f"{process.http}/health")
        assert status == 200
