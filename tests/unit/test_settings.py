"""`maniple_runtime.settings`: what the environment may say, and what a wrong value costs."""

import os
import re
from operator import attrgetter
from typing import ClassVar

import pytest
from pydantic import ValidationError

from maniple.timing_rules import SETTINGS
from maniple.timings import Timings
from maniple.urls import without_password
from maniple_runtime.settings import ServiceSettings, load_settings


class ExampleSettings(ServiceSettings):
    service: ClassVar[str] = "example"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MANIPLE_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("url", "environment"),
    [
        ("amqp://localhost/dev", "dev"),
        ("amqp://u:p@localhost:5672/staging", "staging"),
        ("amqp://localhost", "default"),
        ("amqp://localhost/", "default"),
        ("amqp://localhost/%2F", "default"),
        ("amqps://localhost//", "default"),
    ],
)
def test_the_vhost_is_the_environment(url: str, environment: str) -> None:
    assert ServiceSettings(broker_url=url).environment == environment


def test_instances_have_names_of_their_own() -> None:
    first, second = ExampleSettings().instance, ExampleSettings().instance
    assert first != second
    assert re.fullmatch(r"example-[A-Za-z0-9_-]+-[0-9a-f]{6}", first)


def test_variables_are_read_and_empty_ones_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANIPLE_INSTANCE", "blue-1")
    monkeypatch.setenv("MANIPLE_LOG_LEVEL", "WARNING")
    monkeypatch.setenv("MANIPLE_HTTP_PORT", "")
    settings = load_settings(ExampleSettings)
    assert (settings.instance, settings.log_level, settings.http_port) == ("blue-1", "warning", 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PORT", "many"),
        ("HTTP_PORT", "70000"),
        ("LOG_FORMAT", "xml"),
        ("BROKER_URL", "http://localhost"),
        ("BROKER_URL", "amqp://localhost/a%2Fb"),
        ("CONSUL_URL", "localhost:8500"),
        ("INSTANCE", "with.dots"),
        ("DRAIN_TIMEOUT", "-1"),
        ("TIME_SCALE", "0.05"),
        ("TIME_SCALE", "11"),
        ("TIME_SCALE", "nan"),
        ("UNREACHABLE_AFTER", "0"),
        ("FAILED_AFTER", "inf"),
        ("FAILED_AFTER", "6"),
        ("FAILED_AFTER", "4"),
        ("UNREACHABLE_AFTER", "6.5"),
        ("UNREACHABLE_AFTER", "3.5"),
        ("FORGOTTEN_AFTER", "8"),
        ("LEFTOVER_QUIET", "15"),
    ],
)
def test_a_wrong_value_stops_the_start_with_one_line_that_names_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"MANIPLE_{name}", value)
    with pytest.raises(SystemExit) as stop:
        load_settings(ExampleSettings)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"maniple-example: MANIPLE_{name}: ")


def test_an_exclusive_task_that_would_run_twice_stops_the_start_with_both_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MANIPLE_FAILED_AFTER", "6")
    with pytest.raises(SystemExit) as stop:
        load_settings(ExampleSettings)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "fencing.stopped (8.25 s) must be less than bounds.failed" in said
    assert "[MANIPLE_FAILED_AFTER] (6 s)" in said


def test_times_follow_the_scale_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANIPLE_TIME_SCALE", "0.5")
    monkeypatch.setenv("MANIPLE_FAILED_AFTER", "6")
    timings = load_settings(ExampleSettings).timings
    assert (timings.bounds.unreachable, timings.bounds.failed) == (2.25, 6.0)
    assert (timings.bounds.forgotten, timings.fencing.exclusive) == (300.0, 4.0)
    assert ExampleSettings(time_scale=1.0, failed_after=9.0).timings == Timings()


@pytest.mark.parametrize(
    ("path", "name", "seconds"),
    [
        ("bounds.unreachable", "MANIPLE_UNREACHABLE_AFTER", 5.0),
        ("bounds.failed", "MANIPLE_FAILED_AFTER", 12.0),
        ("bounds.forgotten", "MANIPLE_FORGOTTEN_AFTER", 60.0),
        ("queues.leftover", "MANIPLE_LEFTOVER_QUIET", 20.0),
    ],
)
def test_each_variable_of_a_time_sets_it(
    path: str, name: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SETTINGS[path] == name
    monkeypatch.setenv(name, str(seconds))
    assert attrgetter(path)(load_settings(ExampleSettings).timings) == seconds


def test_a_flag_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANIPLE_DRAIN_TIMEOUT", "7")
    monkeypatch.setenv("MANIPLE_LOG_LEVEL", "warning")
    settings = load_settings(ExampleSettings, ["--drain-timeout", "5", "--http-port=8080"])
    assert (settings.drain_timeout, settings.http_port, settings.log_level) == (5, 8080, "warning")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--drain-timeout", "soon"], "maniple-example: --drain-timeout: "),
        (["--instance=with.dots"], "maniple-example: --instance: "),
        (["--drain-timeot", "5"], "unrecognized arguments: --drain-timeot"),
        (["--drain", "5"], "unrecognized arguments: --drain"),
        (["--drain-timeout"], "--drain-timeout: expected one argument"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_a_wrong_flag_stops_the_start_and_is_named(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        load_settings(ExampleSettings, arguments)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load_settings(ExampleSettings, ["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in ExampleSettings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in shown
        assert field.description
        assert field.description in shown


def test_no_complaint_and_no_repr_shows_a_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MANIPLE_BROKER_URL", "amqp://u:secret@/dev")
    with pytest.raises(SystemExit):
        load_settings(ExampleSettings)
    assert "secret" not in capsys.readouterr().err
    assert "secret" not in repr(ServiceSettings(broker_url="amqp://u:secret@h/dev"))
    assert without_password("amqp://u:secret@h/dev") == "amqp://u:***@h/dev"


def test_settings_do_not_change() -> None:
    settings = ServiceSettings()
    with pytest.raises(ValidationError):
        settings.http_port = 1  # type: ignore[misc]


def test_a_process_bound_to_every_address_advertises_its_host() -> None:
    everywhere = "0.0.0.0"  # noqa: S104 - what is tested; nothing is bound
    assert ServiceSettings(http_host="127.0.0.1").address == "127.0.0.1"
    assert ServiceSettings(http_host=everywhere).address not in {everywhere, ""}
    named = ServiceSettings(http_host=everywhere, advertise_host="a.example")
    assert named.address == "a.example"
