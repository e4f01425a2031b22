"""`ControlPlane` against a real broker, also when that closes the connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from faults import consumers
from local_servers import LocalServers
from maniple.errors import BrokerUnavailable, PublishRefused, RequestFailed, RequestTimeout
from maniple.identifiers import new_id
from maniple.topology import CONTROL, EVENTS, HEARTBEATS, request_queue
from maniple_runtime.control import plane as service_broker
from maniple_runtime.control.messages import Announce, Drain, Heartbeat, Request, Retire
from maniple_runtime.control.plane import ControlPlane, prepare_broker
from maniple_runtime.control.routing_keys import agent_key, control_keys
from maniple_runtime.events import AgentFailed
from maniple_runtime.health import Health
from maniple_runtime.metric_names import CONTROL_DROPPED, RECONNECTS
from maniple_runtime.telemetry import Metrics
from rabbitmqctl import Installed, close_connection, suspended
from scraping import counted
from waiting import wait_until

LOG = structlog.get_logger()


@pytest.fixture(scope="module")
async def url(servers: LocalServers) -> str:
    await prepare_broker(servers.rabbitmq.url("agent"))
    return servers.rabbitmq.url("agent")


@asynccontextmanager
async def planes(
    url: str, counted: Metrics | None = None, **options: Any
) -> AsyncIterator[tuple[ControlPlane, ControlPlane]]:
    """A service's and an agent's control plane; the service's is `counted`."""
    service = ControlPlane(url, name=f"service-{new_id()}", log=LOG, metrics=counted)
    agent = ControlPlane(url, name=f"agent-{new_id()}", log=LOG, **options)
    async with service, agent:
        yield service, agent


def beat(sequence: int = 1, agent: str = "a1") -> Heartbeat:
    fields = {"agent": agent, "incarnation": "1", "sequence": sequence, "digest": "d"}
    return Heartbeat.model_validate(fields | {"sent_at": datetime.now(UTC)})


async def echo(request: Request) -> dict[str, Any]:
    return request.body


async def close(servers: LocalServers, plane: ControlPlane) -> None:
    """Have the broker close a plane's connection, and wait until it stands again."""
    reconnects = plane.reconnects
    assert await close_connection(Installed(servers.rabbitmq), plane.name) == 1
    await wait_until(lambda: plane.reconnects > reconnects and plane.connected)


async def test_messages_reach_who_is_bound_and_only_the_types_asked_for(url: str) -> None:
    async with planes(url) as (service, agent):
        heard: list[Any] = []
        await agent.subscribe(
            CONTROL, control_keys("a1", ["x.y"]), (Announce, Retire), heard.append
        )
        assert await service.command("all", Announce())
        assert await service.command("capability.x.y", Drain())
        assert await service.command(agent_key("a1"), Retire(incarnation=beat().incarnation))
        assert not await service.command(agent_key("nobody"), Announce())
        await wait_until(lambda: len(heard) == 2)
        assert heard == [Announce(), Retire(incarnation=beat().incarnation)]


async def test_what_cannot_be_decoded_and_handlers_that_fail_stop_nobody(url: str) -> None:
    class Garbage(Heartbeat):
        def to_json(self) -> bytes:
            return b"\xff{"

    metrics = Metrics()
    async with planes(url, metrics) as (service, agent):
        heard: list[int] = []

        async def fragile(heartbeat: Heartbeat) -> None:
            if heartbeat.sequence == 1:
                raise ValueError("no")
            heard.append(heartbeat.sequence)

        await service.subscribe(HEARTBEATS, (), Heartbeat, fragile)
        await agent.heartbeat(Garbage.model_validate(beat(0).model_dump()))
        await agent.heartbeat(beat(1))
        await agent.heartbeat(beat(2))
        await wait_until(lambda: heard == [2])
        for reason in ("undecodable", "handler"):
            assert counted(metrics, CONTROL_DROPPED, reason=reason) == 1


async def test_what_asks_a_service_whose_queue_is_silent_is_heard_and_may_ask_others(
    servers: LocalServers, url: str
) -> None:
    """RabbitMQ stops the channel that publishes there first."""
    queue = request_queue("policy").name
    async with planes(url) as (service, agent):
        heard: list[int] = []
        await service.subscribe(HEARTBEATS, (), Heartbeat, lambda one: heard.append(one.sequence))
        await service.respond("registry", {"echo": echo})
        broker = servers.rabbitmq
        async with suspended(Installed(broker), broker.environment, queue):
            for _ in range(2):
                with pytest.raises((RequestTimeout, BrokerUnavailable)):
                    await agent.request("policy", "any", timeout=0.5)
            for number in range(10):
                await agent.heartbeat(beat(number))
            await wait_until(lambda: heard == list(range(10)))
            assert await agent.request("registry", "echo", {"n": 1}) == {"n": 1}
        assert agent.reconnects == 0


async def test_many_requests_are_under_way_at_once(url: str) -> None:
    async with planes(url) as (service, agent):
        everybody = asyncio.Barrier(20)

        async def meet(request: Request) -> dict[str, Any]:
            await everybody.wait()
            return request.body

        await service.respond("registry", {"meet": meet})
        asked = [agent.request("registry", "meet", {"n": n}) for n in range(20)]
        assert await asyncio.gather(*asked) == [{"n": n} for n in range(20)]


async def test_a_request_fails_with_the_services_code_or_in_time(url: str) -> None:
    async with planes(url) as (service, agent):
        with pytest.raises(RequestTimeout):
            await agent.request("policy", "echo", timeout=0.2)
        await service.respond("policy", {"echo": echo})
        with pytest.raises(RequestFailed) as caught:
            await agent.request("policy", "nothing")
        assert caught.value.code == "unknown_op"
        with pytest.raises(PublishRefused):
            await agent.request("no-such-service", "echo")
        assert await agent.request("policy", "echo", {"still": "works"}) == {"still": "works"}


async def test_an_event_is_stored_and_reaches_watchers(url: str) -> None:
    async with planes(url) as (service, agent):
        seen: list[AgentFailed] = []
        await agent.subscribe(EVENTS, ("agent.#",), AgentFailed, seen.append)
        event = AgentFailed(
            agent=beat().agent, incarnation=beat().incarnation, at=datetime.now(UTC)
        )
        await service.emit(event)
        await wait_until(lambda: seen == [event])


async def test_a_closed_connection_is_built_again_with_one_consumer_per_queue(
    servers: LocalServers, url: str
) -> None:
    health = Health("agent", "a1")
    metrics = Metrics()
    async with planes(url, health=health, metrics=metrics) as (service, agent):
        heard: list[Any] = []
        await agent.subscribe(CONTROL, control_keys("a1", []), Announce, heard.append)
        await agent.respond("registry", {"echo": echo})
        await service.respond("policy", {"echo": echo})
        assert await agent.request("policy", "echo", {"n": 0}) == {"n": 0}
        for turn in range(1, 3):
            await close(servers, agent)
            assert health.sound
            assert counted(metrics, RECONNECTS, link="control") == turn
            assert await service.command(agent_key("a1"), Announce())
            assert await agent.request("policy", "echo", {"n": turn}) == {"n": turn}
            assert await service.request("registry", "echo", {"n": turn}) == {"n": turn}
            await agent.heartbeat(beat(turn))
            await wait_until(lambda expected=turn: len(heard) == expected)  # type: ignore[misc]  # bound now
        private = f"maniple.private.{agent.name}.control", f"maniple.replies.{agent.name}"
        once_each = dict.fromkeys(("maniple.requests.registry", *private), 1)

        async def has_no_more() -> bool:  # the broker may still be ending the lost ones
            found = await consumers(Installed(servers.rabbitmq), servers.rabbitmq.environment)
            ours = {queue: found[queue] for queue in found if queue in once_each}
            return ours == once_each

        await wait_until(has_no_more, every=0.5)


async def test_a_handler_is_not_cut_off_by_a_lost_connection(
    servers: LocalServers, url: str
) -> None:
    async with planes(url) as (service, agent):
        begun, go_on, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def slow(_command: Announce) -> None:
            begun.set()
            await go_on.wait()
            finished.set()

        await agent.subscribe(CONTROL, (agent_key("slow"),), Announce, slow)
        await service.command(agent_key("slow"), Announce())
        await begun.wait()
        await close(servers, agent)
        go_on.set()
        await wait_until(finished.is_set)


async def test_a_broker_that_is_not_there_is_said(
    servers: LocalServers, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_broker, "LEAST_PATIENCE", 0.2)
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        async with ControlPlane("amqp://127.0.0.1:1/dev", name="x", log=LOG, patience=0):
            pass
    wrong = url.replace(servers.rabbitmq.passwords["agent"], "wrong")  # type: ignore[index]  # a StrEnum
    with pytest.raises(BrokerUnavailable, match="credentials"):
        async with ControlPlane(wrong, name="x", log=LOG, patience=30):
            pass
