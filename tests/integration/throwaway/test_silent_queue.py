"""A queue that answers nobody, as one does that has lost its leader, costs its own tasks only."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import msgspec
import pytest
import pytest_asyncio

from dying import kill, mortal, revive
from full_lanes import one_dispatcher
from local_servers import SharedServers
from maniple import connect, topology
from maniple_cli.dev_cluster.cluster import Cluster, ServiceProcess
from maniple_cli.dev_cluster.http import fetch
from maniple_runtime.metric_names import RECONNECTS
from outsider import Outsider
from rabbitmqctl import Installed, suspended
from scraping import sample_name, scrape
from waiting import wait_until

ECHOES = 100
STUCK = "test.threaded"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def broker(shared: SharedServers) -> Installed:
    return Installed(shared.rabbitmq)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def one(shared: SharedServers) -> AsyncIterator[Cluster]:
    async with Cluster(one_dispatcher(), broker=shared.broker("silent-queue")) as running:
        yield running


async def health(process: ServiceProcess) -> dict[str, Any]:
    _, body = await fetch(f"{process.http}/health")
    found: dict[str, Any] = msgspec.json.decode(body)
    return found


async def names_it(process: ServiceProcess, queue: str) -> bool:
    """Whether a process says that this queue does not answer."""
    component = (await health(process))["components"].get("broker.queues", {"detail": ""})
    return f"do not answer: {queue}" in component["detail"]


async def is_well(process: ServiceProcess) -> bool:
    return bool((await health(process))["status"] == "ok")


def reconnects(cluster: Cluster) -> float:
    return scrape(cluster.processes)[sample_name(RECONNECTS)]


def reconnects_of(process: ServiceProcess) -> float:
    return scrape([process])[sample_name(RECONNECTS)]


async def echo(outsider: Outsider, count: int) -> None:
    """Have so many tasks run on a lane that answers."""
    sent = [outsider.send("test.double", {"payload": number}) for number in range(count)]
    ends = [outsider.wait(one_of_them, seconds=60)[0] for one_of_them in sent]
    assert [end["output"] for end in ends] == [2 * number for number in range(count)]


class Watched:
    """What the agents of a cluster are, from now on, again and again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.states: set[str] = set()

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            for process in self._cluster.of_service("registry"):
                self.states |= await shown_states(process)
            await asyncio.sleep(0.2)


async def shown_states(process: ServiceProcess) -> set[str]:
    """Return in which states agents are, as a registry shows it."""
    _, body = await fetch(f"{process.http}/metrics")
    lines = [line for line in body.splitlines() if line.startswith("maniple_agents{")]
    return {line.split('"')[1] for line in lines if float(line.rpartition(" ")[2]) > 0}


@pytest.mark.parametrize("which", ["lane", "suspects"])
async def test_while_all_else_is_idle_nobody_reconnects_or_is_suspected(
    one: Cluster, broker: Installed, which: str
) -> None:
    info = one.ready_info()
    queue = topology.lane_queues(STUCK)[which == "suspects"].name
    agents = one.of_service("agent")
    with Outsider(info["broker_url"]) as outsider:
        assert outsider.ask(STUCK, {"payload": [7]})["output"] == 7
        before = reconnects(one)
        async with suspended(broker, info["environment"], queue), Watched(one) as watched:
            for agent in agents:
                # They were asked to consume there anew, and got no answer.
                await wait_until(lambda agent=agent: names_it(agent, queue), 40)  # type: ignore[misc]
            await echo(outsider, ECHOES)
            for agent in agents:
                assert await names_it(agent, queue)
        assert watched.states == {"active"}
        assert reconnects(one) == before
        for agent in agents:
            await wait_until(lambda agent=agent: is_well(agent), 60)  # type: ignore[misc]
        assert outsider.ask(STUCK, {"payload": [8]})["output"] == 8


async def test_an_agent_that_starts_meanwhile_serves_the_other_lanes(
    one: Cluster, broker: Installed
) -> None:
    info, agent = one.ready_info(), one.of_service("agent")[0]
    queue = topology.lane_queues(STUCK)[0].name
    async with mortal(agent), suspended(broker, info["environment"], queue):
        await kill(agent)
        await revive(agent)
        await wait_until(lambda: names_it(agent, queue), 40)
        async with connect(info["client_url"]) as client:
            handles = [client.submit("test.double", number) for number in range(ECHOES)]
            for number, handle in enumerate(await asyncio.gather(*handles)):
                assert await handle.result(timeout=60) == 2 * number
        assert await agent.ready()
    await wait_until(lambda: is_well(agent), 60)


async def test_a_dispatcher_that_starts_while_one_of_its_queues_is_silent_dispatches(
    one: Cluster, broker: Installed
) -> None:
    info, (dispatcher,) = one.ready_info(), one.of_service("dispatcher")
    queue = topology.UNROUTED_QUEUE.name
    async with mortal(dispatcher), suspended(broker, info["environment"], queue):
        await kill(dispatcher)
        await revive(dispatcher)
        with Outsider(info["broker_url"]) as outsider:
            await echo(outsider, ECHOES)
        await wait_until(lambda: names_it(dispatcher, queue), 40)
    await wait_until(lambda: is_well(dispatcher), 60)


async def test_a_dispatcher_that_has_never_published_to_a_silent_lane_serves_the_others(
    one: Cluster, broker: Installed
) -> None:
    """A channel stands that publishes there first."""
    info, (dispatcher,) = one.ready_info(), one.of_service("dispatcher")
    queue = topology.lane_queues(STUCK)[0].name
    async with mortal(dispatcher):
        with Outsider(info["broker_url"]) as outsider:
            async with suspended(broker, info["environment"], queue):
                await kill(dispatcher)
                await revive(dispatcher)
                stuck = [outsider.send(STUCK, {"payload": [n]}) for n in range(ECHOES)]
                await echo(outsider, ECHOES)
                assert reconnects_of(dispatcher) == 0
                assert not any(one_of_them in outsider.replies for one_of_them in stuck)
            ends = [outsider.wait(one_of_them, seconds=90)[0] for one_of_them in stuck]
            assert [end["output"] for end in ends] == list(range(ECHOES))
    await wait_until(lambda: is_well(dispatcher), 60)


def have_known(outsider: Outsider, queue: str) -> None:
    """Have all agents know a queue of replies: each sends several at a time there, again and again.

    One that is sent alone goes by a scout each time, as the first one does.
    """
    many = [{"capability": "test.double", "payload": number} for number in range(ECHOES)]
    for batch in [outsider.send("batch", many, reply_to=queue) for _ in range(8)]:
        outsider.wait(batch, len(many), seconds=60)


async def crowded_channels(broker: Installed, vhost: str) -> int:
    """Return on how many channels more than one message is not confirmed, as told last.

    A scout's has one.
    """
    return int(
        await broker.control(
            "eval",
            "length([P || {P, Told} <- ets:tab2list(channel_metrics), "
            "proplists:get_value(messages_unconfirmed, Told, 0) > 1, "
            "[{_, Made}] <- [ets:lookup(channel_created, P)], "
            f'proplists:get_value(vhost, Made) =:= <<"{vhost}">>]).',
        )
    )


@pytest.mark.parametrize("known", [True, False])
async def test_a_silent_queue_of_replies_costs_no_others_theirs(
    one: Cluster, broker: Installed, known: bool
) -> None:
    info, agents = one.ready_info(), one.of_service("agent")

    async def are_crowded(channels: int) -> bool:
        return await crowded_channels(broker, info["environment"]) == channels

    with Outsider(info["broker_url"]) as outsider, Outsider(info["broker_url"]) as other:
        queue = f"replies-{'known' if known else 'new'}"
        quorum = {"x-queue-type": "quorum"}
        other.channel.queue_declare(queue, durable=True, arguments=quorum)
        other.channel.basic_consume(queue, other._heard, auto_ack=True)
        if known:
            have_known(other, queue)
        await echo(outsider, 4)
        await wait_until(lambda: are_crowded(0), 30)
        before = reconnects(one)
        async with suspended(broker, info["environment"], queue):
            asked = [other.send("test.double", {"payload": n}, reply_to=queue) for n in range(40)]
            await echo(outsider, ECHOES)
            # Where it is known they have gone by the channel of all replies, and not by scouts.
            await wait_until(lambda: are_crowded(len(agents) if known else 0), 20)
            assert reconnects(one) == before
        ends = [other.wait(one_of_them, seconds=60)[0] for one_of_them in asked]
        assert [end["output"] for end in ends] == [2 * number for number in range(40)]


@pytest.mark.parametrize("service", ["registry", "policy"])
@pytest.mark.parametrize("which", ["its requests", "another's"])
async def test_a_control_plane_that_starts_while_a_shared_queue_is_silent_hears_and_answers(
    one: Cluster, broker: Installed, service: str, which: str
) -> None:
    info, (process, *_) = one.ready_info(), one.of_service(service)
    asked = topology.request_queue(service)
    queue = asked.name if which == "its requests" else topology.UNROUTED_QUEUE.name
    async with mortal(process), suspended(broker, info["environment"], queue):
        await kill(process)
        await revive(process)
        await wait_until(process.ready, 40)
        with Outsider(info["broker_url"]) as outsider:
            await echo(outsider, ECHOES)
        if which == "its requests":
            await wait_until(lambda: names_requests(process, queue), 40)
        if service == "registry":  # it hears the heartbeats of all
            await wait_until(lambda: sees_agents(process, len(one.of_service("agent"))), 40)
    await wait_until(lambda: is_well(process), 90)


async def names_requests(process: ServiceProcess, queue: str) -> bool:
    """Whether a process says that the queue of its requests does not answer."""
    component = (await health(process))["components"].get("control plane queues", {"detail": ""})
    return f"do not answer: {queue}" in component["detail"]


async def sees_agents(process: ServiceProcess, number: int) -> bool:
    """Whether a registry shows so many agents, all active."""
    _, body = await fetch(f"{process.http}/metrics")
    lines = [line for line in body.splitlines() if line.startswith("maniple_agents{")]
    shown = {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}
    return shown.get("active") == number
