"""How a connection opens, and what is said where it does not."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pamqp import commands

from certificates import Authority, Certificate
from maniple.amqp.wire.amqp_errors import (
    ConnectionLost,
    ConnectionRefused,
    LoginRefused,
    ProtocolError,
)
from maniple.amqp.wire.broker_connection import Connection
from maniple.errors import ConfigurationError
from scripted_broker import SECONDS, Greet, Peer, ScriptedBroker, every_method
from waiting import wait_until

BEFORE_TUNED = [
    method for method in every_method() if not isinstance(method, commands.Connection.Close)
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.certificate("server")


def serving(certificate: Certificate, clients: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.cacert)
    return context


async def refused(
    greet: Greet, kind: type[BaseException], match: str | None = None, timeout: float = SECONDS
) -> BaseException:
    """Return how opening fails; nothing of the connection is left then."""
    async with asyncio.timeout(SECONDS), ScriptedBroker(greet) as broker:
        connection = Connection(broker.url())
        with pytest.raises(kind, match=match) as caught:
            await connection.open(timeout)
        assert connection.closing.done()
        await (await broker.peer()).until_end()
        with pytest.raises(ConnectionLost):
            await connection.channel()
    return caught.value


def raw(data: bytes) -> Greet:
    async def greet(peer: Peer) -> None:
        await peer.header()
        peer.send_raw(data)

    return greet


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"AMQP\x00\x00\x09\x01", "another version of AMQP: 00000901"),
        (b"AMQP\x03\x01\x00\x00", "another version of AMQP: 03010000"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak AMQP"),
        (b"\x15\x03\x03\x00\x02\x02\x0a\xff", "does not speak AMQP"),
        (b"\x01\x00\x00\xff\xff\xff\xff\x00", "were agreed"),
        (
            b"\x08\x00\x00\x00\x00\x00\x00\xce\x03\x00\x00\x00\x00\x00\x00\xce",
            "kind 3 on channel 0",
        ),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0a\xce", "kind 0|not end|read"),
        (b"\x01\x00\x00\x00\x00\x00\x00\xce", "a method that cannot be read"),
    ],
)
async def test_what_is_no_greeting_ends_the_connection_with_a_reason(
    answer: bytes, said: str
) -> None:
    await refused(raw(answer), ProtocolError, said)


@pytest.mark.parametrize("method", BEFORE_TUNED, ids=lambda method: method.name)
@pytest.mark.filterwarnings("ignore:This command is deprecated:DeprecationWarning")
async def test_every_method_in_place_of_the_limits_ends_the_connection_with_a_reason(
    method: commands.Connection.Start,
) -> None:
    async def greet(peer: Peer) -> None:
        await peer.start()
        await peer.expect(commands.Connection.StartOk)
        peer.send(method)
        peer.send(method)  # a block is no answer; this ends also those that would be waited for
        peer.send(commands.Connection.TuneOk(1, 1, 1))

    await refused(greet, ProtocolError)


async def test_a_broker_that_says_nothing_is_given_up() -> None:
    async def silent(peer: Peer) -> None:
        await peer.header()

    await refused(silent, TimeoutError, timeout=0.1)


async def test_a_broker_that_falls_silent_after_its_greeting_is_given_up() -> None:
    await refused(Peer.start, TimeoutError, timeout=0.3)


async def test_a_broker_that_hangs_up_before_its_greeting_is_not_taken_for_one_that_refuses() -> (
    None
):
    async def hang_up(peer: Peer) -> None:
        await peer.header()
        await peer.hang_up()

    error = await refused(hang_up, ConnectionLost)
    assert not isinstance(error, LoginRefused)


async def test_a_broker_that_hangs_up_on_the_password_without_a_word_may_be_going_away() -> None:
    async def hang_up(peer: Peer) -> None:
        await peer.start()
        await peer.expect(commands.Connection.StartOk)
        await peer.hang_up()

    error = await refused(hang_up, ConnectionLost)
    assert not isinstance(error, LoginRefused)


def closing(code: int, *, after_tuning: bool) -> Greet:
    async def close(peer: Peer) -> None:
        await peer.start()
        await peer.expect(commands.Connection.StartOk)
        if after_tuning:
            peer.send(commands.Connection.Tune(10, 4096, 0))
            await peer.expect(commands.Connection.TuneOk)
            await peer.expect(commands.Connection.Open)
        peer.send(commands.Connection.Close(code, "WHY - said so", 0, 0))
        await peer.expect(commands.Connection.CloseOk)

    return close


@pytest.mark.parametrize(
    ("code", "after_tuning", "kind"),
    [
        (403, False, LoginRefused),
        (530, False, ConnectionRefused),
        (403, True, ConnectionRefused),
        (530, True, ConnectionRefused),
        (541, True, ConnectionRefused),
    ],
)
async def test_what_the_broker_says_at_the_end_of_a_handshake_is_told(
    code: int, after_tuning: bool, kind: type[ConnectionLost]
) -> None:
    error = await refused(closing(code, after_tuning=after_tuning), kind, "said so")
    if isinstance(error, ConnectionRefused):
        assert (error.code, error.text) == (code, "WHY - said so")


async def test_a_broker_that_offers_no_way_in_that_we_know_is_told_with_what_it_offers() -> None:
    async def greet(peer: Peer) -> None:
        await peer.start("GSSAPI EXTERNAL")

    await refused(greet, ConnectionLost, "GSSAPI")


@asynccontextmanager
async def opened(
    tls: ssl.SSLContext | None, greet: Greet, query: str, login: str = "me:secret@"
) -> AsyncIterator[Connection]:
    async with asyncio.timeout(SECONDS), ScriptedBroker(greet, tls) as broker:
        connection = Connection(broker.url(query, login))
        await connection.open(SECONDS)
        yield connection
        connection.abort()


def logged_in(starts: list[commands.Connection.StartOk], mechanisms: str) -> Greet:
    async def greet(peer: Peer) -> None:
        await peer.start(mechanisms)
        starts.append(await peer.expect(commands.Connection.StartOk))
        peer.send(commands.Connection.Tune(0, 0, 0))
        tuned = await peer.expect(commands.Connection.TuneOk)
        assert (tuned.channel_max, tuned.frame_max, tuned.heartbeat) == (65_535, 131_072, 0)
        opening = await peer.expect(commands.Connection.Open)
        assert opening.virtual_host == "dev"
        peer.send(commands.Connection.OpenOk())

    return greet


async def test_user_and_password_are_told_and_the_connections_name() -> None:
    starts: list[commands.Connection.StartOk] = []
    login = "m%40e:%2Fsecret@"
    async with opened(None, logged_in(starts, "AMQPLAIN PLAIN"), "heartbeat=0&name=mine", login):
        (start,) = starts
        assert (start.mechanism, start.response) == ("PLAIN", "\0m@e\0/secret")
        assert start.client_properties["connection_name"] == "mine"


@pytest.mark.parametrize(
    ("login", "mechanisms", "wanted"),
    [
        ("", "PLAIN EXTERNAL", ("EXTERNAL", "")),
        ("me:secret@", "PLAIN EXTERNAL", ("PLAIN", "\0me\0secret")),
        ("", "PLAIN", ("PLAIN", "\0guest\0guest")),
    ],
)
async def test_a_certificate_logs_in_where_the_url_names_nobody(
    authority: Authority,
    certificate: Certificate,
    login: str,
    mechanisms: str,
    wanted: tuple[str, str],
) -> None:
    starts: list[commands.Connection.StartOk] = []
    files = f"cafile={authority.cacert}&certfile={certificate.cert}&keyfile={certificate.key}"
    context = serving(certificate, authority)
    greet = logged_in(starts, mechanisms)
    async with opened(context, greet, f"heartbeat=0&{files}", login) as connection:
        assert connection.frame_max == 131_072
    assert (starts[0].mechanism, starts[0].response) == wanted


async def tls_refused(
    context: ssl.SSLContext, query: str, match: str | None = None
) -> BaseException:
    async def greet(peer: Peer) -> None:
        await peer.start()

    async with asyncio.timeout(SECONDS), ScriptedBroker(greet, context) as broker:
        with pytest.raises(ConnectionLost, match=match) as caught:
            await Connection(broker.url(query)).open(SECONDS)
    return caught.value


async def test_a_broker_that_wants_a_certificate_gets_none_and_that_is_told(
    authority: Authority, certificate: Certificate
) -> None:
    context = serving(certificate, authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # of 1.3 it may be heard only as a hang-up
    error = await tls_refused(context, f"cafile={authority.cacert}")
    assert isinstance(error.__cause__, OSError)


async def test_a_broker_that_is_not_trusted_is_told(certificate: Certificate) -> None:
    error = await tls_refused(serving(certificate), "heartbeat=0", "CERTIFICATE_VERIFY_FAILED")
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


async def test_who_is_told_to_trust_anybody_does(certificate: Certificate) -> None:
    greet = logged_in([], "PLAIN")
    async with opened(serving(certificate), greet, "heartbeat=0&no_verify_ssl=1") as connection:
        assert not connection.closing.done()


async def test_a_plain_client_of_a_port_with_tls_is_told(certificate: Certificate) -> None:
    async with (
        asyncio.timeout(SECONDS),
        ScriptedBroker(Peer.start, serving(certificate)) as broker,
    ):
        url = broker.url().replace("amqps://", "amqp://")
        with pytest.raises(ConnectionLost):
            await Connection(url).open(SECONDS)


async def test_a_client_of_tls_on_a_plain_port_is_told() -> None:
    async def greet(peer: Peer) -> None:
        await peer.header()
        peer.send_raw(b"AMQP\x00\x00\x09\x01")
        await peer.hang_up()

    async with asyncio.timeout(SECONDS), ScriptedBroker(greet) as broker:
        url = broker.url().replace("amqp://", "amqps://")
        with pytest.raises(ConnectionLost) as caught:
            await Connection(url).open(SECONDS)
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_tls_greeting_that_never_comes_is_given_up() -> None:
    accepted: list[asyncio.StreamReader] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(reader)
        await reader.read(-1)
        writer.close()

    async with asyncio.timeout(SECONDS), await asyncio.start_server(silent, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        patience = 0.2
        while not accepted:  # on a busy machine that may be over before it is connected
            with pytest.raises(TimeoutError):
                await Connection(f"amqps://127.0.0.1:{port}/dev").open(patience)
            patience *= 2
        await wait_until(lambda: all(one.at_eof() for one in accepted))  # the socket is closed


async def test_nobody_there_is_told_with_the_systems_error() -> None:
    with pytest.raises(ConnectionLost, match="no connection") as caught:
        await Connection("amqp://127.0.0.1:1/dev").open(SECONDS)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_a_file_of_tls_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cafile"):
        await Connection(f"amqps://127.0.0.1:1/dev?cafile={tmp_path}/none").open(SECONDS)


@pytest.mark.parametrize(("offered", "agreed"), [(4096, 4096), (131_072, 131_072), (0, 131_072)])
@pytest.mark.parametrize("channel_max", [1, 2047])
async def test_as_much_is_agreed_as_the_broker_allows(
    offered: int, agreed: int, channel_max: int
) -> None:
    async def greet(peer: Peer) -> None:
        await peer.shake_hands(frame_max=offered, channel_max=channel_max)

    async with opened(None, greet, "heartbeat=0") as connection:
        assert (connection.frame_max, connection.channel_max) == (agreed, channel_max)


async def test_a_caller_who_gives_up_leaves_no_socket() -> None:
    async def silent(peer: Peer) -> None:
        await peer.header()

    async with asyncio.timeout(SECONDS), ScriptedBroker(silent) as broker:
        opening = asyncio.create_task(Connection(broker.url()).open(SECONDS))
        peer = await broker.peer()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert await peer.until_end() == b""
