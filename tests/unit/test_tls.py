"""Consul and the management API over TLS and IPv6, and what is said where that fails."""

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority, Certificate, http_server
from maniple.amqp import AmqpConnection
from maniple.amqp.probe import probe
from maniple.errors import BrokerRefused, BrokerUnavailable, ConfigurationError
from maniple_agent.settings import AgentSettings
from maniple_agent.wiring import worker_environment
from maniple_cli.checks.pages import PageUnread, read
from maniple_cli.dev_cluster import servers as local_servers
from maniple_cli.dev_cluster.errors import ServerUnreachable, WrongVariable
from maniple_cli.dev_cluster.servers import Existing, Servers
from maniple_registry.errors import ManagementUnavailable
from maniple_registry.management import Management
from maniple_registry.settings import RegistrySettings
from maniple_runtime.consul.client import Consul, ConsulUnavailable
from maniple_runtime.settings import WRONG_USAGE, ServiceSettings, load_settings
from maniple_runtime.tls import Tls

GUARD = 10.0  # seconds, against trying again


class Api(BaseHTTPRequestHandler):
    """Answers what Consul and the management API are asked here."""

    answers: dict[str, Any] = {  # noqa: RUF012 - never changed
        "/v1/catalog/services": {"consul": []},
        "/api/connections": [],
    }

    def do_GET(self) -> None:
        body = json.dumps(self.answers.get(self.path.partition("?")[0], "")).encode()
        self.send_response(200)
        self.send_header("X-Consul-Index", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.certificate("server")


@pytest.fixture
def secure(certificate: Certificate) -> Iterator[str]:
    with http_server(Api, certificate=certificate) as url:
        yield url


async def ask(url: str, tls: Tls | None = None) -> dict[str, list[str]]:
    consul = Consul(url, tls=tls)
    try:
        return await consul.services()
    finally:
        consul.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("https", [False, True])
async def test_consul_is_asked_wherever_it_is(
    host: str, https: bool, authority: Authority, certificate: Certificate
) -> None:
    with http_server(Api, host=host, certificate=certificate if https else None) as url:
        tls = Tls(authority.cacert) if https else None
        assert await ask(url, tls) == {"consul": []}
        closed = await Management(url, tls).close_connections({"a"})
        assert closed.count == 0


async def test_who_asks_for_our_certificate_gets_it(
    authority: Authority, certificate: Certificate, folder: Path
) -> None:
    both = folder / "both.pem"
    both.write_text(certificate.cert.read_text() + certificate.key.read_text())
    with http_server(Api, certificate=certificate, clients=authority.cacert) as url:
        for tls in (
            Tls(authority.cacert, certificate.cert, certificate.key),
            Tls(authority.cacert, both),
        ):
            assert await ask(url, tls) == {"consul": []}
        with pytest.raises(ConsulUnavailable, match=r"TLS|cannot be reached"):
            await ask(url, Tls(authority.cacert))


async def test_who_is_not_trusted_is_named_so_by_everybody(secure: str) -> None:
    said = "TLS: its certificate is not trusted: unable to get local issuer certificate"
    with pytest.raises(ConsulUnavailable, match=said):
        await ask(secure)
    with pytest.raises(ManagementUnavailable, match=said):
        await Management(secure).close_connections({"a"})
    with pytest.raises(PageUnread, match=said):
        await read(secure)


async def test_the_brokers_authority_is_part_of_its_url(secure: str, authority: Authority) -> None:
    url = f"amqps://me:secret@{secure.removeprefix('https://')}/dev"
    said = "is not trusted: unable to get local issuer certificate; give the file of its authority"
    with pytest.raises(BrokerRefused, match=said):
        await probe(url, (), ())
    await refused_at_once(url, said)
    with pytest.raises(BrokerUnavailable) as caught:  # trusted, but it is no broker
        await probe(f"{url}?cafile={authority.cacert}", (), (), timeout=1.0)
    assert not isinstance(caught.value, BrokerRefused)


async def refused_at_once(url: str, said: str) -> None:
    async with asyncio.timeout(GUARD):
        with pytest.raises(BrokerRefused, match=said):
            await AmqpConnection(url, name="refused").start()


async def test_a_port_of_the_broker_without_tls_is_told_at_once() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"AMQP\0\0\x09\x01")  # as a broker does that is spoken to otherwise
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        said = "does not speak TLS there; give the port where it does, or amqp://"
        await refused_at_once(f"amqps://127.0.0.1:{port}/dev", said)
        with pytest.raises(BrokerRefused, match=said):
            await probe(f"amqps://127.0.0.1:{port}/dev", (), ())


async def started(url: str) -> None:
    """Start what `maniple dev` starts beside a broker and a Consul that are there."""
    existing = Existing(broker_url=url, consul_url="http://127.0.0.1:1")
    nothing: Any = None
    servers = Servers(Path(), nothing, environment="dev", keep=False, existing=existing)
    await servers._check_broker()


async def test_a_cluster_beside_a_broker_that_cannot_be_used_is_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ServerUnreachable, match=r"BROKER_URL: no broker answers: 127\.0\.0\.1:1/"):
        await started("amqp://127.0.0.1:1/dev")
    with pytest.raises(WrongVariable, match="BROKER_URL: a file of TLS that the broker's URL"):
        await started("amqps://127.0.0.1:1/dev?cafile=/nowhere")

    async def refused(*_: object, **__: object) -> None:
        raise BrokerRefused("127.0.0.1:1/dev refused the credentials")

    monkeypatch.setattr(local_servers, "probe", refused)
    with pytest.raises(ServerUnreachable, match=r"BROKER_URL: 127.* refused the credentials"):
        await started("amqp://127.0.0.1:1/dev")


@pytest.mark.parametrize("name", ["cafile", "certfile"])
@pytest.mark.parametrize("content", [None, "nothing"])
async def test_a_file_of_the_brokers_tls_that_cannot_be_used_is_told_at_once(
    name: str, content: str | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "file").write_text(content)
    url = f"amqps://127.0.0.1:1/dev?{name}={tmp_path}/file"
    async with asyncio.timeout(GUARD):
        with pytest.raises(ConfigurationError, match=r"that the broker's URL names.* cannot be"):
            await AmqpConnection(url, name="wrong").start()
        with pytest.raises(ConfigurationError, match=r"that the broker's URL names.* cannot be"):
            await probe(url, (), ())


async def test_another_name_than_the_certificate_has_is_told(
    authority: Authority, certificate: Certificate
) -> None:
    with (
        http_server(Api, host="127.0.0.2", certificate=certificate) as url,
        pytest.raises(ConsulUnavailable, match=r"TLS: .*127\.0\.0\.2"),
    ):
        await ask(url, Tls(authority.cacert))


async def test_a_server_that_speaks_no_tls_is_told() -> None:
    with (
        http_server(Api) as url,
        pytest.raises(ConsulUnavailable, match="TLS: wrong version number"),
    ):
        await ask(url.replace("http:", "https:"))


async def test_a_server_that_is_away_is_told_in_words() -> None:
    with pytest.raises(ConsulUnavailable, match="Consul: cannot be reached: Connection refused"):
        await ask("http://127.0.0.1:1")


def load(
    environ: dict[str, Any], monkeypatch: pytest.MonkeyPatch, kind: type[ServiceSettings]
) -> ServiceSettings:
    for name, value in environ.items():
        monkeypatch.setenv(f"MANIPLE_{name}", str(value))
    return load_settings(kind)


async def test_the_files_are_settings(
    authority: Authority, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"CACERT": authority.cacert, "CERT": certificate.cert, "KEY": certificate.key}
    environ = {
        f"{server}_{part}": value
        for server in ("CONSUL", "MANAGEMENT")
        for part, value in ({"URL": "https://server"} | given).items()
    }
    settings = load(environ, monkeypatch, RegistrySettings)
    assert isinstance(settings, RegistrySettings)
    wanted = Tls(authority.cacert, certificate.cert, certificate.key)
    assert settings.consul_tls == settings.management_tls == wanted
    assert Tls.of_environment("consul") == wanted


@pytest.mark.parametrize("lost", ["the file", "the URL", "both"])
def test_a_worker_starts_whatever_became_of_the_files_of_its_agent(
    lost: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cacert = tmp_path / "ca.pem"
    cacert.write_bytes(authority.cacert.read_bytes())
    environ = {"CONSUL_URL": "https://server", "CONSUL_CACERT": cacert}
    settings = load(environ, monkeypatch, AgentSettings)
    assert isinstance(settings, AgentSettings)
    if lost != "the URL":
        cacert.unlink()
    if lost != "the file":
        monkeypatch.delenv("MANIPLE_CONSUL_URL")
    for name, value in worker_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert AgentSettings().instance == settings.instance


HTTPS = {"CONSUL_URL": "https://server"}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({**HTTPS, "CONSUL_CACERT": "nowhere.pem"}, "CACERT: No such file or directory"),
        ({**HTTPS, "CONSUL_CACERT": "text"}, "CACERT: cannot be used: no certificate"),
        ({**HTTPS, "CONSUL_CERT": "authority.pem"}, "CERT: cannot be used"),
        ({**HTTPS, "CONSUL_CERT": "server.pem", "CONSUL_KEY": "authority.key"}, "mismatch"),
        ({**HTTPS, "CONSUL_KEY": "server.key"}, "KEY: there is no MANIPLE_CONSUL_CERT"),
        ({"CONSUL_CACERT": "authority.pem"}, "MANIPLE_CONSUL_URL is no https URL"),
        ({"MANAGEMENT_CACERT": "authority.pem"}, "MANIPLE_MANAGEMENT_URL is no https URL"),
    ],
)
@pytest.mark.usefixtures("certificate")
def test_files_that_cannot_be_used_stop_the_start(
    environ: dict[str, str],
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "text").write_text("no certificate")
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as caught:
        load(environ, monkeypatch, RegistrySettings)
    assert caught.value.code == WRONG_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_key_with_a_password_is_refused_and_asks_nobody(
    authority: Authority, certificate: Certificate
) -> None:
    locked = authority.lock(certificate.key)
    with pytest.raises(ValueError, match="MANIPLE_CONSUL_KEY: cannot be used"):
        Tls(authority.cacert, certificate.cert, locked).check("consul")


def test_dev_names_a_file_that_it_cannot_use() -> None:
    environ = {"MANIPLE_CONSUL_URL": "https://server", "MANIPLE_CONSUL_CACERT": "/nowhere"}
    with pytest.raises(WrongVariable, match="MANIPLE_CONSUL_CACERT: No such file"):
        Existing.of_environment(environ)
