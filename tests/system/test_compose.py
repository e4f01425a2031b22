"""The cluster of docker-compose.yml while its containers are killed, frozen, cut off and scaled.

Skipped where it cannot come up, in CI too. The tests are steps of one run: a plain AMQP client on
the host submits all the while, and in the end nothing has been lost.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from maniple.amqp import AmqpConnection
from maniple.errors import ManipleError
from maniple_cli.control import ask
from maniple_cli.dev_cluster.errors import LocalError
from maniple_cli.dev_cluster.http import fetch
from maniple_runtime.records import Batch, FirstWins, RecordReader, TaskKey
from needs import need
from outsider import Outsider
from paths import ROOT, SUPPORT
from system.campaign.client_history import ClientHistory
from system.campaign.submitters import PlainPublisher
from system.campaign.workload import PlannedTask, Submitter
from system.compose import FOR_FILE, FOR_STACK, POLL, Stack
from system.docker import run
from waiting import wait_until

PERIOD = 0.05  # seconds between submissions
LENGTHS = (0.01, 0.3, 1.5)  # seconds that tasks take
FROZEN_SECONDS = 12.0
SETTLE_SECONDS = 60.0
EXAMPLE_IMAGE = "example/agent:1"

pytestmark = pytest.mark.timeout(600)  # the first build of the images takes minutes


class Load:
    """What is submitted, and what became of it."""

    def __init__(self, url: str) -> None:
        self.client_history = ClientHistory()
        self.submitted = 0
        self._publisher = PlainPublisher(url, "compose.replies", self.client_history)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        with self._publisher:
            self._work = asyncio.create_task(self._go_on())
            try:
                yield self
            finally:
                await self.stop()

    async def _go_on(self) -> None:
        while True:
            seconds = LENGTHS[self.submitted % len(LENGTHS)]
            name = f"compose-{self.submitted}"
            self._publisher.submit(PlannedTask(name, "test.slow", seconds, Submitter.PLAIN, 0.0))
            self.submitted += 1
            await asyncio.sleep(PERIOD)

    async def stop(self) -> None:
        """Submit nothing more."""
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)

    @property
    def waiting(self) -> set[str]:
        """The tasks that the broker has confirmed and whose end nobody has told."""
        return self.client_history.confirmed - self.client_history.told.keys()

    async def goes_on(self) -> None:
        """Wait for the results of what is waiting now, and of something new."""
        before, told = self.waiting, len(self.client_history.told)
        await wait_until(
            lambda: not before & self.waiting and len(self.client_history.told) > told,
            SETTLE_SECONDS,
        )

    async def settles(self) -> None:
        """Stop, and wait until all that was submitted has been confirmed and told."""
        await self.stop()
        await wait_until(
            lambda: (
                len(self.client_history.told)
                == len(self.client_history.confirmed)
                == self.submitted
            ),
            SETTLE_SECONDS,
        )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(need, *FOR_STACK)
    handlers = tmp_path_factory.mktemp("handlers")
    for path in (ROOT / "examples" / "text_stats.py", SUPPORT / "sample_handlers.py"):
        shutil.copy(path, handlers)
    handlers.chmod(0o755)  # the containers' user is none of this machine
    running = Stack(tmp_path_factory.mktemp("stack"), handlers)
    try:
        await running.up()
        yield running
    finally:
        await running.down()
        with contextlib.suppress(LocalError):  # it was not built
            await run("docker", "image", "rm", EXAMPLE_IMAGE)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def load(stack: Stack) -> AsyncIterator[Load]:
    async with Load(stack.address("submit to")).running() as load:
        await load.goes_on()
        yield load


async def agents(stack: Stack) -> dict[str, set[str]]:
    """Return the states of the agents that a registry knows, by their containers' ids."""
    found: dict[str, set[str]] = {}
    with contextlib.suppress(ManipleError):
        told = await ask(stack.operator_url, "registry", "agents")
        for agent in told["agents"]:
            host = str(agent.get("host", ""))  # known from Consul alone, it has none
            found.setdefault(host, set()).add(str(agent["state"]).lower())
    return found


async def active(stack: Stack, count: int) -> None:
    """Wait until exactly so many agents are active."""

    async def reached() -> bool:
        return sum("active" in states for states in (await agents(stack)).values()) == count

    await wait_until(reached, SETTLE_SECONDS, every=POLL)


async def evicted(stack: Stack, container: str) -> None:
    """Wait until the agent in a container has been declared failed."""
    host = (await stack.state(container))["Config"]["Hostname"]

    async def told() -> bool:
        return "failed" in (await agents(stack)).get(host, ())

    await wait_until(told, SETTLE_SECONDS, every=POLL)


async def test_the_plain_publisher_gets_its_result_at_the_address_that_is_printed(
    stack: Stack,
) -> None:
    program = str(ROOT / "examples" / "plain_publisher.py")
    printed = await run(sys.executable, program, stack.address("submit to"))
    assert printed.startswith("first succeeded {'lines': 1, 'words': 6")


async def test_a_task_has_one_trace_over_all_containers(stack: Stack) -> None:
    trace_id, parent = uuid.uuid4().hex, "00f067aa0ba902b7"
    given = {"traceparent": f"00-{trace_id}-{parent}-01"}
    with Outsider(stack.address("submit to")) as outsider:
        sent = outsider.send("text.stats", {"payload": "to be"}, headers=given)
        await asyncio.to_thread(outsider.wait, sent, 1, SETTLE_SECONDS)

    async def found() -> dict[str, dict[str, Any]]:
        return {span["name"]: span for span in await stack.spans(trace_id)}

    async def whole() -> bool:
        names = await found()
        return {"dispatch text.stats", "send result"} <= names.keys()

    await wait_until(whole, SETTLE_SECONDS, every=POLL)
    spans = await found()
    dispatch, execute = spans["dispatch text.stats"], spans["execute text.stats"]
    assert dispatch["parent_id"] == parent
    assert spans["queue text.stats"]["parent_id"] == dispatch["span_id"]
    assert execute["parent_id"] == dispatch["span_id"]
    assert spans["send result"]["parent_id"] == execute["span_id"]
    services = [one["resource"]["service.name"] for one in (dispatch, execute)]
    assert services == ["maniple-dispatcher", "maniple-agent"]


async def test_the_doctor_finds_a_sound_cluster(stack: Stack) -> None:
    told = json.loads(await stack.compose("run", "--rm", "-T", "cli", "doctor", "--json"))
    wrong = [finding for finding in told if finding["verdict"] != "ok"]
    assert wrong == []
    (health,) = [finding["found"] for finding in told if finding["check"] == "health"]
    assert health.startswith("9 of 9 processes asked")


async def test_prometheus_reaches_every_process(stack: Stack) -> None:
    query = f"{stack.address('Prometheus')}/api/v1/query?query=up"

    async def all_up() -> bool:
        _, body = await fetch(query)
        found = json.loads(body)["data"]["result"]
        ups = [one["value"][1] for one in found if one["metric"]["job"] == "maniple"]
        return ups == ["1"] * 9

    await wait_until(all_up, SETTLE_SECONDS, every=POLL)


@pytest.mark.parametrize("service", ["agent", "dispatcher", "registry", "policy"])
async def test_a_process_of_ours_that_dies_is_started_again(
    stack: Stack, load: Load, service: str
) -> None:
    container = await stack.crash(service)
    await load.goes_on()
    await stack.healthy(container, restarts=1)


@pytest.mark.parametrize("service", ["prometheus", "consul", "rabbitmq"])
async def test_a_server_that_is_killed_comes_back_with_its_data(
    stack: Stack, load: Load, service: str
) -> None:
    await stack.healthy(await stack.kill(service))
    await load.goes_on()
    await active(stack, 3)


async def test_a_frozen_agent_is_evicted_and_comes_back(stack: Stack, load: Load) -> None:
    container = stack.container("agent", 2)
    await run("docker", "pause", container)
    try:
        await asyncio.gather(evicted(stack, container), asyncio.sleep(FROZEN_SECONDS))
    finally:
        await run("docker", "unpause", container)
    await active(stack, 3)
    await load.goes_on()


async def test_an_agent_that_is_cut_off_is_evicted_and_comes_back(stack: Stack, load: Load) -> None:
    network, container = f"{stack.project}_default", stack.container("agent", 3)
    await run("docker", "network", "disconnect", network, container)
    try:
        await evicted(stack, container)
    finally:
        await run("docker", "network", "connect", "--alias", "agent", network, container)
    await active(stack, 3)
    await load.goes_on()


async def test_agents_are_scaled_up_and_down(stack: Stack, load: Load) -> None:
    for count in (6, 2):
        scale = ("--no-build", "--no-deps", "--no-recreate", "--scale", f"agent={count}")
        await stack.compose("up", "--detach", *scale, "agent")
        await active(stack, count)
    await load.goes_on()


async def test_everything_that_was_confirmed_has_ended_once(stack: Stack, load: Load) -> None:
    await load.settles()
    ledger = await records(stack, load.client_history.confirmed)
    fates = [ledger.get(TaskKey("default", task)) for task in load.client_history.confirmed]
    assert len(fates) > 500
    assert {str(fate.state) if fate and fate.over else "lost" for fate in fates} == {"succeeded"}
    assert {told.status for told in load.client_history.told.values()} == {"succeeded"}
    assert load.client_history.contradicted == {}


async def test_agents_of_an_image_made_from_ours_bring_their_own_handlers(stack: Stack) -> None:
    files = ("--file", "docker-compose.yml", "--file", "examples/docker/compose.yml")
    await stack.compose(*files, "up", "--detach", "--build", "--no-deps", "agent")
    question = {"document": {"age": "ten"}, "schema": {"properties": {"age": {"type": "integer"}}}}
    with Outsider(stack.address("submit to")) as outsider:
        sent = outsider.send("json.check", {"payload": question})
        (result,) = await asyncio.to_thread(outsider.wait, sent, 1, SETTLE_SECONDS)
    assert (result["status"], result["output"]) == (
        "succeeded",
        ["'ten' is not of type 'integer'"],
    )


async def records(stack: Stack, wanted: set[str]) -> FirstWins:
    """Read the record stream until it has told of the ends of all that is wanted."""
    ledger = FirstWins()

    async def take(batch: Batch) -> None:
        for entry in batch.entries:
            ledger.take(entry)

    def whole() -> bool:
        return all((fate := ledger.get(TaskKey("default", t))) and fate.ends for t in wanted)

    link = AmqpConnection(stack.operator_url, name="compose.records")
    reader = RecordReader(link, take)
    work = asyncio.create_task(reader.read_records())
    try:
        await link.start(10)
        with contextlib.suppress(AssertionError):  # who asks says what is missing
            await wait_until(whole, 30)
    finally:
        await link.close()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    return ledger


async def test_nothing_is_left_once_it_is_down(stack: Stack) -> None:
    assert set(await stack.left()) == {"container", "network", "volume"}
    await stack.down()
    assert await stack.left() == {}


def test_the_passwords_are_random_and_private(stack: Stack) -> None:
    assert stack.env_file.stat().st_mode & 0o077 == 0
    lines = [line.partition("=") for line in stack.env_file.read_text().splitlines()]
    passwords = [value for name, _, value in lines if name.endswith("_PASSWORD")]
    assert len({value for value in passwords if len(value) == 36}) == len(passwords) == 9


async def test_without_passwords_nothing_starts() -> None:
    await asyncio.to_thread(need, *FOR_FILE)
    with pytest.raises(LocalError, match=r"MANIPLE_\w+_PASSWORD .*; make up makes a \.env"):
        await run("docker", "compose", "--env-file", os.devnull, "config", "--quiet", cwd=ROOT)
