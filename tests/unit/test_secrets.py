"""What of a process's settings is left where others can read it."""

import os
import sys
from typing import Any

import pytest

from maniple import clusters
from maniple.errors import ConfigurationError
from maniple_agent.settings import AgentSettings
from maniple_cli.commands import dev
from maniple_registry.settings import RegistrySettings
from maniple_runtime.secret_variables import leave_no_secrets
from maniple_runtime.settings import ServiceSettings

SECRET = "hunter2"  # noqa: S105 - of nothing
URL = f"amqp://agent:{SECRET}@host/dev"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an environment and arguments of its own."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(sys, "argv", ["program", "--slots", "4"])


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MANIPLE_BROKER_URL", URL),
        ("maniple_broker_url", URL),
        ("MANIPLE_CONSUL_TOKEN", SECRET),
        ("MANIPLE_MANAGEMENT_URL", f"http://a:{SECRET}@host:1"),
        ("MANIPLE_CONSUL_URL", f"http://a:{SECRET}@host:1"),
        ("MANIPLE_OPERATOR_PASSWORD", SECRET),
        ("MANIPLE_OF_A_LATER_RELEASE_TOKEN", SECRET),
        ("MANIPLE_OF_A_LATER_RELEASE", URL),
    ],
)
@pytest.mark.parametrize("kind", [AgentSettings, RegistrySettings])
def test_what_is_secret_leaves_the_environment_once_it_is_read(
    variable: str, value: str, kind: type[ServiceSettings]
) -> None:
    os.environ[variable] = value
    leave_no_secrets(kind())
    del os.environ["PYTEST_CURRENT_TEST"]  # it has the values of this test's parameters
    assert SECRET not in str(dict(os.environ))
    assert sys.argv == ["program", "--slots", "4"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("MANIPLE_SLOTS", "4"), ("DATABASE_URL", URL), ("MANIPLE_CONSUL_URL", "http://host:8500")],
)
def test_what_is_not_ours_or_no_secret_stays(variable: str, value: str) -> None:
    os.environ[variable] = value
    leave_no_secrets(AgentSettings())
    assert os.environ[variable] == value


@pytest.mark.parametrize(
    "arguments", [["--broker-url", URL], [f"--broker-url={URL}"], ["--consul-token", SECRET]]
)
def test_what_was_given_as_a_flag_is_not_seen_by_handlers(arguments: list[str]) -> None:
    sys.argv += arguments
    leave_no_secrets(AgentSettings())
    assert SECRET not in str(sys.argv)


def test_handlers_get_the_login_of_a_client_under_the_usual_name() -> None:
    os.environ |= {"MANIPLE_BROKER_URL": URL, "MANIPLE_CLIENT_URL": "amqp://client:c@host/dev"}
    settings = AgentSettings()
    leave_no_secrets(settings)
    assert settings.broker_url == URL
    assert os.environ["MANIPLE_BROKER_URL"] == "amqp://client:c@host/dev"
    assert "MANIPLE_CLIENT_URL" not in os.environ


def test_handlers_of_an_agent_without_a_clients_login_are_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clusters, "find_cluster", lambda: pytest.fail("another cluster"))
    os.environ["MANIPLE_BROKER_URL"] = URL
    os.environ.pop("MANIPLE_CLIENT_URL", None)
    leave_no_secrets(AgentSettings())
    with pytest.raises(ConfigurationError, match="set MANIPLE_CLIENT_URL on the agent"):
        clusters.default_broker_url()


INFO: dict[str, Any] = {
    "management_url": f"http://operator:{SECRET}@127.0.0.1:15672",
    "consul_url": "http://127.0.0.1:8500",
    "broker_url": f"amqp://outside:{SECRET}@127.0.0.1/dev",
    "operator_url": f"amqp://operator:{SECRET}@127.0.0.1/dev",
    "data_dir": "there",
}


def test_a_terminal_is_told_the_passwords_and_a_file_is_not() -> None:
    assert dev.addresses(INFO, secret=False).count(SECRET) == 3
    told = dev.addresses(INFO, secret=True)
    assert SECRET not in told
    assert "dev.json" in told


def test_what_does_not_go_to_a_terminal_goes_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert not dev.DevScreen().is_terminal
    capsys.readouterr()
