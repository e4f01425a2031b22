"""Our AMQP with brokers that allow little, and with one that asks for certificates."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from certificates import Authority, Certificate
from maniple.amqp.wire.amqp_errors import ConnectionLost, LoginRefused, PublishImpossible
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.properties import Properties
from maniple.amqp.wire.requests import Message
from maniple_cli.dev_cluster.ports import free_ports
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer
from needs import OPENSSL, RABBITMQ, need
from rabbitmqctl import Installed, make_administrator
from waiting import wait_until

SECONDS = 60.0
THROWAWAY_SECONDS = 0.5
QUEUE = "maniple.agent.test"
USER = "certified"


class Restricted(RabbitMQServer):
    """A broker with further settings and plugins."""

    def __init__(self, folder: Path, settings: dict[str, object], *plugins: str) -> None:
        super().__init__(folder, environment="limits")
        self._settings = settings
        self._plugins = ("rabbitmq_management", "rabbitmq_prometheus", *plugins)

    def _write_files(self) -> None:
        super()._write_files()
        text = "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        (self.data_dir / "conf.d" / "90-limits.conf").write_text(text)
        (self.data_dir / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Restricted]:
    need(RABBITMQ)
    limits: dict[str, object] = {"frame_max": 4096, "channel_max": 1, "heartbeat": 10}
    server = Restricted(tmp_path_factory.mktemp("rabbitmq"), limits)
    await server.start()
    yield server
    await server.stop(THROWAWAY_SECONDS)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = Connection(url)
    async with asyncio.timeout(SECONDS):
        await connection.open(SECONDS)
        yield connection
        await connection.close()


async def test_bodies_of_every_size_pass_in_the_smallest_frames(
    broker: Restricted,
) -> None:
    async with connected(broker.url("agent")) as connection:
        assert connection.frame_max == 4096
        room = connection.frame_max - 8
        channel = await connection.channel(publisher_confirms=True)
        await channel.queue_declare(QUEUE)
        got: list[Message] = []
        await channel.basic_consume(QUEUE, got.append)
        bodies = [bytes(size) for size in (0, 1, room - 1, room, room + 1, 3 * room, 1_000_000)]
        told = Properties(headers={"some": "x" * 3000})
        for body in bodies:
            await channel.publish(body, exchange="", routing_key=QUEUE, properties=told)
        await wait_until(lambda: len(got) == len(bodies))
        assert [message.body for message in got] == bodies
        assert {str(message.properties.headers) for message in got} == {str(told.headers)}
        await channel.queue_delete(QUEUE)


async def test_properties_that_no_frame_has_room_for_cost_no_connection(broker: Restricted) -> None:
    async with connected(broker.url("agent")) as connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.queue_declare(QUEUE)
        told = Properties(headers={"some": "x" * connection.frame_max})
        with pytest.raises(PublishImpossible, match="properties"):
            await channel.publish(b"", exchange="", routing_key=QUEUE, properties=told)
        most = Properties(headers={"some": "x" * (connection.frame_max - 36)})
        await channel.publish(b"", exchange="", routing_key=QUEUE, properties=most)
        found = await channel.basic_get(QUEUE)
        assert found is not None
        assert found.properties == most
        await channel.queue_delete(QUEUE)


async def test_a_connection_of_one_channel_has_one_at_a_time(broker: Restricted) -> None:
    async with connected(broker.url("agent")) as connection:
        assert connection.channel_max == 1
        for _ in range(20):
            channel = await connection.channel()
            with pytest.raises(ConnectionLost, match="all 1 channels"):
                await connection.channel()
            await channel.close()


async def test_heartbeats_keep_an_idle_connection(broker: Restricted) -> None:
    async with connected(f"{broker.url('agent')}?heartbeat=1") as connection:
        heard = connection.heard  # the broker would end it after two without one
        await wait_until(lambda: connection.heard >= heard + 6, 20)
        assert not connection.closing.done()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    need(OPENSSL)
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def client(authority: Authority) -> Certificate:
    return authority.certificate(USER)


@pytest.fixture(scope="module")
async def secure(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The URL, without a login, of a broker that lets in whoever has a certificate."""
    need(RABBITMQ)
    (port,), server = free_ports(1), authority.certificate("server")
    settings = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": authority.cacert,
        "ssl_options.certfile": server.cert,
        "ssl_options.keyfile": server.key,
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "true",
        "ssl_cert_login_from": "common_name",
        "auth_mechanisms.1": "EXTERNAL",
        "auth_mechanisms.2": "PLAIN",
    }
    folder = tmp_path_factory.mktemp("rabbitmq")
    broker = Restricted(folder, settings, "rabbitmq_auth_mechanism_ssl")
    await broker.start()
    await make_administrator(Installed(broker), USER)
    await Installed(broker).control("set_permissions", "-p", "limits", USER, ".*", ".*", ".*")
    yield f"amqps://127.0.0.1:{port}/limits?cafile={authority.cacert}"
    await broker.stop(THROWAWAY_SECONDS)


async def test_a_certificate_logs_in_and_large_bodies_pass(
    secure: str, client: Certificate
) -> None:
    async with connected(f"{secure}&certfile={client.cert}&keyfile={client.key}") as connection:
        assert connection.frame_max == 131_072
        channel = await connection.channel(publisher_confirms=True)
        await channel.queue_declare(QUEUE)
        for body in (b"", bytes(131_064), bytes(131_065), bytes(5_000_000)):
            told = Properties(user_id=USER)  # the broker compares that with who logged in
            await channel.publish(body, exchange="", routing_key=QUEUE, properties=told)
            found = await channel.basic_get(QUEUE)
            assert found is not None
            assert found.body == body
        await channel.queue_delete(QUEUE)


async def test_the_certificate_of_nobody_is_refused(secure: str, authority: Authority) -> None:
    unknown = authority.certificate("unknown")
    with pytest.raises(LoginRefused):
        await Connection(f"{secure}&certfile={unknown.cert}&keyfile={unknown.key}").open(SECONDS)


async def test_a_password_is_refused_though_the_certificate_is_right(
    secure: str, client: Certificate
) -> None:
    url = secure.replace("amqps://", "amqps://agent:wrong@")
    with pytest.raises(LoginRefused):
        await Connection(f"{url}&certfile={client.cert}&keyfile={client.key}").open(SECONDS)


async def test_who_shows_no_certificate_is_not_let_in_and_told_with_the_systems_error(
    secure: str,
) -> None:
    with pytest.raises(ConnectionLost) as caught:
        await Connection(secure.replace("amqps://", "amqps://agent:x@")).open(SECONDS)
    assert not isinstance(caught.value, LoginRefused)
    assert isinstance(caught.value.__cause__, OSError)
