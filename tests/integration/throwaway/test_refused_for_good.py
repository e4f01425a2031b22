"""A real broker that refuses for good: a login, a vhost, a right, a size. Nobody tries again."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from maniple import BrokerRefused, TaskHandle, connect
from maniple.amqp.probe import probe
from maniple.messages import MAX_BODY
from maniple.topology import EXCHANGES, QUEUES
from maniple_cli.control import ask_for_agents
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer
from maniple_runtime.control.plane import prepare_broker
from needs import RABBITMQ, need
from rabbitmqctl import Installed

PATIENCE = 30.0  # half of what a submission is tried for
NOTHING = ("^$", "^$", "^$")
OWN = r"^amq\.gen.*"
LARGEST = 100_000

pytestmark = pytest.mark.usefixtures("patiently")


@dataclass(frozen=True)
class Broker:
    """Where it is: each user has its name for its password."""

    server: RabbitMQServer

    def url(self, user: str, password: str = "", vhost: str = "") -> str:
        place = urlsplit(self.server.url("operator")).netloc.rpartition("@")[2]
        return f"amqp://{user}:{password or user}@{place}/{vhost or self.server.environment}"


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    need(RABBITMQ)
    server = RabbitMQServer(tmp_path_factory.mktemp("rabbitmq"), environment="refused")
    await server.start()
    try:
        rights = {"reader": (OWN, OWN, r"^(amq\.gen|maniple).*"), "bare": NOTHING}
        control = Installed(server).control
        for user in ("stranger", *rights):
            await control("add_user", user, user)
        for user, right in rights.items():
            await control("set_permissions", "-p", server.environment, user, *right)
        await prepare_broker(server.url("dispatcher"))
        yield Broker(server)
    finally:
        await server.stop(0.5)


@pytest.fixture
async def patiently() -> AsyncIterator[None]:
    """Fail what tries again: that goes on for as long as a client waits for a confirm."""
    async with asyncio.timeout(PATIENCE):
        yield


async def submit(url: str, payload: object = 1) -> None:
    async with connect(url, timeout=2 * PATIENCE) as client:
        await client.submit("maniple.echo", payload)


@pytest.mark.parametrize(
    ("user", "password", "vhost", "said"),
    [
        ("stranger", "wrong", "", "ACCESS_REFUSED - Login was refused"),
        ("reader", "", "nowhere", "vhost nowhere not found"),
        ("stranger", "", "", "access to vhost 'refused' refused for user 'stranger'"),
        ("bare", "", "", "access to queue 'amq.gen"),
    ],
)
async def test_who_may_not_connect_is_told_at_once_whoever_it_is(
    broker: Broker, user: str, password: str, vhost: str, said: str
) -> None:
    url = broker.url(user, password, vhost)
    with pytest.raises(BrokerRefused, match=said):
        await submit(url)
    with pytest.raises(BrokerRefused, match=said.replace("amq.gen", "maniple.replies")):
        await ask_for_agents(url)
    if user != "bare":
        with pytest.raises(BrokerRefused, match=said):
            await prepare_broker(url)
        with pytest.raises(BrokerRefused, match=said):
            await probe(url, [EXCHANGES[0].name], [QUEUES[0].name])


async def test_who_may_not_submit_is_told_at_once(broker: Broker) -> None:
    with pytest.raises(BrokerRefused, match=r"access to exchange 'maniple\.tasks'"):
        await submit(broker.url("reader"))


async def test_what_is_too_large_for_the_broker_is_told_and_what_is_beside_it_goes_on(
    broker: Broker,
) -> None:
    setting = "application:set_env(rabbit, max_message_size, {})."
    control = Installed(broker.server).control
    await control("eval", setting.format(LARGEST))
    try:
        async with connect(broker.server.url("outside")) as client:
            large = client.submit("maniple.echo", "x" * 2 * LARGEST)
            small = client.submit("maniple.echo", 1, repeated=True)  # so not in one message
            refused, handle = await asyncio.gather(large, small, return_exceptions=True)
        assert isinstance(refused, BrokerRefused)
        assert "is larger than configured max size" in str(refused)
        assert isinstance(handle, TaskHandle)
    finally:
        await control("eval", setting.format(16 * MAX_BODY))
