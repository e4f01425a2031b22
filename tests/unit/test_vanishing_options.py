"""What is said in an option is done or refused, never dropped."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from maniple import InvalidMessage, task
from maniple.errors import ErrorCode
from maniple.messages import Task
from maniple.testing import cluster
from maniple_cli.commands import bulk, submit
from maniple_cli.main import build
from maniple_cli.output import ExitCode
from maniple_runtime.settings import WRONG_USAGE, ServiceSettings, load_settings

URL = ("--broker-url", "amqp://test@memory/dev")


@task("test.echo")
async def echo(payload: Any) -> Any:
    return payload


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make commands submit to a cluster in memory, and find no other."""
    for module in (submit, bulk):
        monkeypatch.setattr(module, "connect", lambda _: cluster(echo))
    for name in ("BROKER", "CONSUL", "MANAGEMENT"):
        monkeypatch.delenv(f"MANIPLE_{name}_URL", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


NOWHERE = "amqp://a:b@127.0.0.1:1/dev"


def invoke(*arguments: str, given: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(build(), list(arguments), input=given)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("options", [{"priority": 5}, {"time_out": 5.0}, {"retries": 3}])
async def test_an_option_that_there_is_not_is_refused_by_name(options: dict[str, Any]) -> None:
    (name,) = options
    async with cluster(echo) as client:
        with pytest.raises(InvalidMessage, match=name) as caught:
            await client.submit("test.echo", 1, **options)
        assert caught.value.code is ErrorCode.UNKNOWN_FIELD
        with pytest.raises(InvalidMessage, match=name):
            await anext(client.map("test.echo", [1], **options))


@pytest.mark.parametrize(
    "options", [{"ttl": float("inf")}, {"timeout": float("nan")}, {"ttl": float("nan")}]
)
async def test_a_time_without_an_end_is_refused_by_name(options: dict[str, Any]) -> None:
    (name,) = options
    async with cluster(echo) as client:
        with pytest.raises(InvalidMessage, match=name):
            await client.submit("test.echo", 1, **options)


@pytest.mark.parametrize(
    "arguments", [("--ttl", "inf"), ("--wait-timeout", "nan"), ("--wait-timeout", "-1")]
)
def test_so_it_is_on_the_command_line(arguments: tuple[str, str]) -> None:
    code, _, said = invoke("submit", "test.echo", "1", "--broker-url", NOWHERE, *arguments)
    assert code == 2
    assert arguments[0].strip("-") in said


@pytest.mark.parametrize("options", [{"id": ""}, {"labels": 0}, {"labels": [("a", "b")]}])
async def test_a_value_that_is_empty_or_of_another_kind_is_refused(options: dict[str, Any]) -> None:
    async with cluster(echo) as client:
        with pytest.raises(InvalidMessage, match=next(iter(options))):
            await client.submit("test.echo", 1, **options)


async def test_a_task_with_an_empty_id_is_refused_wherever_it_comes_from() -> None:
    nameless = Task(capability="test.echo", id="")
    async with cluster(echo) as client:
        with pytest.raises(InvalidMessage, match="id"):
            await client.submit_task(nameless)
        (result,) = [result async for result in client.outcomes([nameless])]
    assert result.error is not None
    assert result.error.code == ErrorCode.INVALID_TASK


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--ttl", "0"), "--ttl"),
        (("--timeout", "0"), "--timeout"),
        (("--id", ""), "--id"),
        (("--tenant", ""), "--tenant"),
        (("--max-attempts", "0"), "--max-attempts"),
        (("--label", "a=1", "--label", "a=2"), "--label a"),
        (("--output", "results.jsonl"), "--output"),
        (("--no-wait", "--wait-timeout", "5"), "--wait-timeout"),
        (("--broker-url", ""), "--broker-url"),
    ],
)
def test_an_option_of_submit_without_effect_is_refused_by_name(
    arguments: tuple[str, ...], named: str
) -> None:
    code, out, err = invoke("submit", "test.echo", "1", *URL, *arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert named in plain(err)


@pytest.mark.parametrize("arguments", [("--ttl", "0"), ("--tenant", ""), ("--wait-timeout", "5")])
def test_a_wrong_option_for_a_file_is_refused_once(arguments: tuple[str, ...]) -> None:
    code, out, err = invoke("submit", "test.echo", "-f", "-", *URL, *arguments, given="1\n2\n")
    assert (code, out) == (ExitCode.USAGE, "")
    assert arguments[0] in plain(err)
    assert "line 1" not in err


@pytest.mark.parametrize(
    "command",
    [
        ("policy", "delete", "retry/a", "--author", ""),
        ("policy", "explain", "-c", "a", "--label", "a=1", "--label", "a=2"),
        ("doctor", *URL, "--consul-url", ""),
    ],
)
def test_other_commands_refuse_such_options_too(command: tuple[str, ...]) -> None:
    code, out, err = invoke(*command)
    assert (code, out) == (ExitCode.USAGE, "")
    assert command[-2] in plain(err) or "--label a" in plain(err)


@pytest.mark.parametrize("arguments", [("--instance", ""), ("--region=",), ("--data-dir", "")])
def test_an_empty_flag_of_a_process_is_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(ServiceSettings, arguments)
    assert caught.value.code == WRONG_USAGE
    assert arguments[0].removesuffix("=") in capsys.readouterr().err


def plain(text: str) -> str:
    """Return what is said without the frame, the colours and the line breaks around it."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╰─╮╯]", " ", text).split())
