"""What is no URL is refused in words, wherever it is given, and never repeated."""

import re

import pytest
from typer.testing import CliRunner

from maniple import ConfigurationError, connect
from maniple.cli.main import build
from maniple.local.errors import WrongVariable
from maniple.local.servers import Existing
from maniple.service.settings import WRONG_USAGE, ServiceSettings, load_settings
from maniple.urls import check_broker_url, check_http_url, without_password

ENCODE = "percent-encode the user and the password"
PORT = "the port must be a number from 1 to 65535"
BRACKETS = "an IPv6 address stands in brackets"
BROKER = "must look like amqp://"

WRONG = [
    ("amqp://me:my#secret@host:5672/dev", ENCODE),
    ("amqp://me:1234#secret@host/dev", ENCODE),
    ("amqp://me:my/secret@host:5672/dev", ENCODE),
    ("amqp://me:1234?secret@host/dev", ENCODE),
    ("amqp://me:my[secret@host/dev", ENCODE),
    ("amqp://me:secret@host:rabbit/dev", PORT),
    ("amqp://me:secret@host:70000/dev", PORT),
    ("amqp://me:secret@host:0/dev", PORT),
    ("amqp://me:secret@host:-1/dev", PORT),
    ("amqp://me:secret@::1/dev", BRACKETS),
    ("amqp://me:secret@/dev", BROKER),
    ("me:secret@host/dev", BROKER),
    ("amqp://me:secret@host/dev#part", BROKER),
    ("amqp://me:secret@host/dev\n", "a space or a control character"),
]
RIGHT = [
    "amqp://me:p%23%2F@host/dev",
    "amqp://host",
    "amqp://[::1]:5673/dev",
    "amqps://me:a@b@host/dev?cafile=/etc/a@b.pem",
]


@pytest.mark.parametrize(("url", "said"), WRONG)
def test_what_is_wrong_with_a_url_is_said_without_repeating_it(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        check_broker_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", RIGHT)
def test_a_right_url_passes(url: str) -> None:
    assert check_broker_url(url).hostname in {"host", "::1"}


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
        Existing.of({name: url})
    result = CliRunner().invoke(build(), ["dev"], env={name: url})
    assert result.exit_code == WRONG_USAGE
    assert name in result.stdout
    assert "secret" not in result.stdout


@pytest.mark.parametrize("password", ["secret", "a@secret", "sec:ret@secret"])
def test_a_password_is_hidden_whole(password: str) -> None:
    shown = without_password(f"to amqp://me:{password}@host/dev?a=b")
    assert shown == "to amqp://me:***@host/dev?a=b"
