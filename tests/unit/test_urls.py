"""What is no URL is refused in words, wherever it is given, and never repeated."""

import re

import pytest
from typer.testing import CliRunner

from maniple import ConfigurationError, connect
from maniple.urls import check_broker_url, check_http_url, without_password
from maniple_cli.dev_cluster.errors import WrongVariable
from maniple_cli.dev_cluster.servers import Existing
from maniple_cli.main import build
from maniple_runtime.settings import WRONG_USAGE, ServiceSettings, load_settings

ENCODE = "percent-encode the user and the password"
PORT = "the port must be a number from 1 to 65535"
BRACKETS = "an IPv6 address stands in brackets"
BROKER = "must look like amqp://"

HOST = "amqps://me:secret@host/dev"

WRONG = [
    ("amqp://me:my#secret@host:5672/dev", ENCODE),
    ("amqp://me:1234#secret@host/dev", ENCODE),
    ("amqp://me:my/secret@host:5672/dev", ENCODE),
    ("amqp://me:1234?secret@host/dev", ENCODE),
    ("amqp://me:my[secret@host/dev", ENCODE),
    ("amqp://me:1?secret=b@host/dev", ENCODE),
    ("amqp://me:secret@host:rabbit/dev", PORT),
    ("amqp://me:secret@host:70000/dev", PORT),
    ("amqp://me:secret@host:0/dev", PORT),
    ("amqp://me:secret@host:-1/dev", PORT),
    ("amqp://me:secret@::1/dev", BRACKETS),
    ("amqp://me:secret@/dev", BROKER),
    ("me:secret@host/dev", BROKER),
    ("amqp://me:secret@host/dev#part", BROKER),
    (f"amqp://me:secret@host/{'a' * 128}", "the vhost has more than 127 letters"),
    (f"amqp://me:secret@host/{'%20' * 128}", "the vhost has more than 127 letters"),
    ("amqp://me:secret@a..b/dev", "the host is no name: between its dots stand 1 to 63"),
    (f"amqp://me:secret@{'a' * 64}.b/dev", "the host is no name: between its dots stand 1 to 63"),
    ("amqp://me:secret@a%20b/dev", "the host is no name: it has a '%' in it"),
    (f"{HOST}?nonsense=1", "there is no parameter 'nonsense': there is cafile, capath, "),
    (f"{HOST}?nonsense", "there is no parameter 'nonsense'"),
    (f"{HOST}?cafile=/a&CaFile=/b", "there is no parameter 'CaFile'"),
    (f"{HOST}?heartbeat=x", "heartbeat must be a number of seconds"),
    (f"{HOST}?heartbeat=-1", "heartbeat must be a number of seconds"),
    (f"{HOST}?heartbeat=65535", "heartbeat must be a number of seconds"),
    (f"{HOST}?cafile=", "cafile must be the path of a file"),
    (f"{HOST}?cadata=a", "cadata must be base64 of certificates"),
    (f"{HOST}?no_verify_ssl=false", "no_verify_ssl must be 0 or 1"),
    ("amqp://me:secret@host/dev?cafile=/a", "cafile is for amqps://"),
    ("amqp://me:secret@host/dev\n", "a space or a control character"),
]
RIGHT = [
    "amqp://me:p%23%2F@host/dev",
    "amqp://host",
    "amqp://[::1]:5673/dev",
    "amqps://me:a@b@host/dev?cafile=/etc/a@b.pem",
    "amqps://host/dev?capath=/etc&certfile=/a&keyfile=/b&no_verify_ssl=1&cadata=YWJj",
    f"amqp://my_host.{'a' * 63}/dev?heartbeat=60&name=mine&timeout=5",
    f"amqp://bücher.example/{'a' * 127}",
    "amqp://host.",
]


@pytest.mark.parametrize(("url", "said"), WRONG)
def test_what_is_wrong_with_a_url_is_said_without_repeating_it(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        check_broker_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", RIGHT)
def test_a_right_url_passes(url: str) -> None:
    assert check_broker_url(url).hostname


@pytest.mark.parametrize("url", ["http://host:8500", "https://[::1]", "http://me:a%40@host:1/api"])
def test_a_right_url_of_an_http_api_passes(url: str) -> None:
    assert check_http_url(url).hostname in {"host", "::1"}


async def _by_sdk(url: str) -> None:
    async with connect(url, timeout=0.1):
        pass


@pytest.mark.parametrize("url", ["", WRONG[0][0], WRONG[5][0], WRONG[9][0]])
async def test_the_sdk_refuses_it_before_it_connects(url: str) -> None:
    with pytest.raises(ConfigurationError, match="the broker's URL"):
        await _by_sdk(url)


@pytest.mark.parametrize(("url", "said"), [WRONG[0], WRONG[5], WRONG[9]])
@pytest.mark.parametrize("command", [("agents",), ("submit", "a"), ("policy", "list"), ("doctor",)])
def test_every_command_ends_with_2(command: tuple[str, ...], url: str, said: str) -> None:
    result = CliRunner().invoke(build(), [*command, "--broker-url", url], env={"COLUMNS": "200"})
    assert result.exit_code == WRONG_USAGE
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert "secret" not in result.stderr


@pytest.mark.parametrize(
    ("name", "url", "said"),
    [
        ("BROKER_URL", *WRONG[0]),
        ("CONSUL_URL", "http://consul:http", PORT),
        ("CONSUL_URL", "http://::1:8500", BRACKETS),
    ],
)
def test_a_process_does_not_start_and_names_the_variable(
    name: str,
    url: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"MANIPLE_{name}", url)
    with pytest.raises(SystemExit) as caught:
        load_settings(ServiceSettings)
    assert caught.value.code == WRONG_USAGE
    error = capsys.readouterr().err
    assert f"MANIPLE_{name}: {said}" in error
    assert "secret" not in error


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("MANIPLE_BROKER_URL", WRONG[0][0]),
        ("MANIPLE_CONSUL_URL", "http://consul:http"),
        ("MANIPLE_MANAGEMENT_URL", "http://me:my#secret@host:15672"),
    ],
)
def test_dev_names_the_variable_too(name: str, url: str) -> None:
    with pytest.raises(WrongVariable, match=name):
        Existing.of_environment({name: url})
    result = CliRunner().invoke(build(), ["dev"], env={name: url})
    assert result.exit_code == WRONG_USAGE
    assert name in result.stdout
    assert "secret" not in result.stdout


@pytest.mark.parametrize("password", ["secret", "a@secret", "sec:ret@secret"])
def test_a_password_is_hidden_whole(password: str) -> None:
    shown = without_password(f"to amqp://me:{password}@host/dev?a=b")
    assert shown == "to amqp://me:***@host/dev?a=b"
