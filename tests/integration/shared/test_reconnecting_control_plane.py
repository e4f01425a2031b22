"""`ControlPlane` over a network that fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
import structlog

from flaky_network import FlakyNetwork
from local_servers import LocalServers
from maniple.errors import BrokerUnavailable, ManipleError
from maniple.identifiers import new_id
from maniple.timings import Amqp
from maniple.topology import CONTROL, EVENTS
from maniple_runtime.control.messages import Announce, Heartbeat, Request
from maniple_runtime.control.plane import ControlPlane, prepare_broker
from maniple_runtime.events import AgentFailed
from maniple_runtime.health import Health
from waiting import wait_until

LOG = structlog.get_logger()
PATIENCE = 60.0
# As ever, in a fraction of the time: the real one has a test of its own in test_amqp_silence.
TIMES = Amqp(heartbeat=2, tick=0.4)
DROPPED_SECONDS = 3.0 * TIMES.heartbeat  # the broker holds what was a client's for as long
STUCK = 20  # events that are emitted while nothing gets through
BEAT = Heartbeat.model_validate(
    {"agent": "a1", "incarnation": "1", "sequence": 1, "digest": "d", "sent_at": datetime.now(UTC)}
)


class Heard:
    """A control plane over a flaky network, and another that talks to it past that."""

    def __init__(self, network: FlakyNetwork, plane: ControlPlane, other: ControlPlane) -> None:
        self.network = network
        self.plane = plane
        self.other = other
        self.commands: list[Announce] = []

    async def works(self, count: int) -> None:
        """Fail unless it is commanded once, and asks and answers."""
        await wait_until(lambda: self.plane.connected)
        assert await self.other.command("all", Announce())
        await wait_until(lambda: len(self.commands) == count)
        assert await self.plane.request("policy", "echo", {"n": count}) == {"n": count}
        assert await self.other.request("registry", "echo", {"n": count}) == {"n": count}


def private_queues(servers: LocalServers, name: str) -> list[str]:
    rabbitmq = servers.rabbitmq
    api = f"{rabbitmq.management_url('operator')}/api"
    url = f"{api}/queues/{rabbitmq.environment}?columns=name"
    answer = requests.get(url, timeout=5)
    answer.raise_for_status()
    return [queue["name"] for queue in answer.json() if name in queue["name"]]


def failure() -> AgentFailed:
    return AgentFailed(agent=BEAT.agent, incarnation=BEAT.incarnation, at=datetime.now(UTC))


async def hasty(plane: ControlPlane, first: str) -> None:
    if first == "event":
        await plane.emit(failure(), timeout=0.2)
    else:
        await plane.request("policy", "echo", timeout=0.2)


async def echo(request: Request) -> dict[str, Any]:
    return request.body


@asynccontextmanager
async def heard(servers: LocalServers) -> AsyncIterator[Heard]:
    url = servers.rabbitmq.url("agent")
    await prepare_broker(url)
    async with (
        FlakyNetwork(url) as network,
        ControlPlane(network.url, name=f"flaky-{new_id()}", log=LOG, times=TIMES) as plane,
        ControlPlane(url, name=f"other-{new_id()}", log=LOG, times=TIMES) as other,
    ):
        found = Heard(network, plane, other)
        await plane.subscribe(CONTROL, ("all",), Announce, found.commands.append)
        await plane.respond("registry", {"echo": echo})
        await other.respond("policy", {"echo": echo})
        await found.works(1)
        yield found


async def test_a_cut_that_nobody_is_told_of_is_noticed_by_a_control_plane(
    servers: LocalServers,
) -> None:
    async with heard(servers) as on:
        on.network.freeze()
        await wait_until(lambda: not on.plane.connected, TIMES.silent + 4)
        on.network.thaw()
        await on.works(2)


async def test_private_queues_that_the_broker_still_holds_do_not_stand_in_the_way(
    servers: LocalServers,
) -> None:
    async with heard(servers) as on:
        on.network.sever()
        await wait_until(lambda: on.plane.reconnects > 0 and on.plane.connected)
        assert await on.other.command("all", Announce())
        assert await on.plane.request("policy", "echo", {"still": "held"}) == {"still": "held"}
        await wait_until(lambda: len(on.commands) == 2)

        async def is_free() -> bool:  # of the consumer that is not there any more
            listed = await asyncio.to_thread(private_queues, servers, on.plane.name)
            return len(listed) == 2

        await wait_until(is_free, DROPPED_SECONDS + 4)
        await on.works(3)


@pytest.mark.parametrize("first", ["event", "request"])
async def test_what_is_given_up_costs_the_others_nothing(servers: LocalServers, first: str) -> None:
    url = servers.rabbitmq.url("agent")
    await prepare_broker(url)
    async with (
        FlakyNetwork(url) as network,
        ControlPlane(network.url, name=f"hasty-{new_id()}", log=LOG) as plane,
        ControlPlane(url, name=f"other-{new_id()}", log=LOG) as other,
    ):
        await other.respond("policy", {"echo": echo})
        seen: list[str] = []
        await other.subscribe(EVENTS, (AgentFailed.KEY,), AgentFailed, lambda e: seen.append(e.id))

        network.freeze()  # what is asked of the broker before the first publication, too
        with pytest.raises(ManipleError):
            await hasty(plane, first)
        network.thaw()
        events = [failure() for _ in range(20)]
        _, answer = await asyncio.gather(
            asyncio.gather(*(plane.emit(event, PATIENCE) for event in events)),
            plane.request("policy", "echo", {"n": 1}, PATIENCE),
        )
        assert answer == {"n": 1}
        await wait_until(lambda: {event.id for event in events} <= set(seen))
        assert plane.reconnects == 0
        listed = await asyncio.to_thread(private_queues, servers, plane.name)
        assert len(listed) == 1  # that of the answers, once


async def test_events_are_sent_again_under_their_ids_over_a_lost_connection(
    servers: LocalServers,
) -> None:
    async with heard(servers) as on:
        seen: list[str] = []
        keys = (AgentFailed.KEY,)
        await on.other.subscribe(EVENTS, keys, AgentFailed, lambda event: seen.append(event.id))
        emitting: list[asyncio.Task[None]] = []
        ids: set[str] = set()

        def emit(count: int) -> None:
            for _ in range(count):
                event = failure()
                ids.add(event.id)
                emitting.append(asyncio.create_task(on.plane.emit(event, PATIENCE)))

        emit(200)
        await wait_until(lambda: len(seen) > 5)
        on.network.freeze()
        emit(STUCK)
        await wait_until(lambda: on.network.held > 0)  # they, or what confirms those before
        assert not any(task.done() for task in emitting[-STUCK:])
        on.network.cut()
        on.network.thaw()
        await asyncio.gather(*emitting)
        await wait_until(lambda: set(seen) == ids)
        assert on.plane.reconnects > 0


async def test_a_control_plane_that_never_connects_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    health = Health("agent", "a1")
    plane = ControlPlane("amqp://127.0.0.1:1/dev", name="x", log=LOG, health=health, patience=60)
    connecting = asyncio.create_task(plane.__aenter__())
    await wait_until(lambda: plane._connection.last_error is not None)  # it tries again
    assert not connecting.done()
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    with pytest.raises(BrokerUnavailable, match="closed"):
        await plane.heartbeat(BEAT)
    await wait_until(lambda: asyncio.all_tasks() <= before)
