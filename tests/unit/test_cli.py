import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from maniple.clusters import default_broker_url, find_cluster, run_file
from maniple.errors import ConfigurationError
from maniple.tasks import task
from maniple.testing import cluster
from maniple_cli.commands import bulk, submit
from maniple_cli.commands.bulk import Bulk, BulkOptions
from maniple_cli.jsonl import LineSplitter
from maniple_cli.main import build
from maniple_cli.output import ExitCode

URL = "amqp://test@memory/dev"


@task("test.double")
async def double(payload: int) -> int:
    return payload * 2


@task("test.group")
async def group(payload: str) -> None:
    async def fails() -> None:
        raise LookupError(payload) from OSError("the shop is shut")

    async with asyncio.TaskGroup() as together:
        together.create_task(fails())


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BROKER", "CONSUL", "MANAGEMENT"):
        monkeypatch.delenv(f"MANIPLE_{name}_URL", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make commands submit to a cluster in memory."""
    for module in (submit, bulk):
        monkeypatch.setattr(module, "connect", lambda _: cluster(double, group))


def invoke(*arguments: str, given: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(build(), list(arguments), input=given)
    return result.exit_code, result.stdout, result.stderr


def closed_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.mark.usefixtures("in_memory")
def test_one_task_prints_its_output() -> None:
    assert invoke("submit", "test.double", "21", "--broker-url", URL) == (0, "42\n", "")


@pytest.mark.usefixtures("in_memory")
def test_what_is_behind_a_failure_is_shown_below_it_and_moves_nothing_on_a_terminal() -> None:
    code, _, err = invoke("submit", "test.group", '"a\\u001b[2J\\nb"', "--broker-url", URL)
    assert code == ExitCode.FAILED
    assert err.splitlines() == [
        (
            "maniple: failed: handler_error: ExceptionGroup: unhandled errors in a TaskGroup "
            "(1 sub-exception)"
        ),
        "  - LookupError: a [2J b",
        "    because of OSError: the shop is shut",
    ]


@pytest.mark.usefixtures("in_memory")
def test_json_prints_the_whole_result() -> None:
    code, out, _ = invoke("submit", "test.double", "21", "--json", "--id", "x", "--broker-url", URL)
    result = json.loads(out)
    assert (code, result["id"], result["status"], result["output"]) == (0, "x", "succeeded", 42)


@pytest.mark.usefixtures("in_memory")
def test_a_failed_task_is_one_line_on_standard_error_and_exit_code_1() -> None:
    code, out, err = invoke("submit", "test.double", '"a"', "--broker-url", URL)
    assert (code, out) == (ExitCode.FAILED, "")
    assert err.startswith("maniple: failed: invalid_task: ")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("in_memory")
def test_no_wait_prints_the_id() -> None:
    arguments = ("submit", "test.double", "1", "--no-wait", "--id", "job", "--broker-url", URL)
    assert invoke(*arguments) == (0, "job\n", "")


@pytest.mark.usefixtures("in_memory")
@pytest.mark.parametrize(
    "arguments",
    [
        ("submit",),
        ("submit", "test.double", "{a}"),
        ("submit", "Test Double", "1"),
        ("submit", "test.double", "1", "--label", "region"),
        ("submit", "test.double", "1", "--ttl", "-1"),
        ("submit", "test.double", "1", "--file", "-"),
        ("submit", "test.double", "1", "--id", " "),
        ("submit", "test.double", "1", "--tenant", " "),
        ("submit", "test.double", "1", "--colour", "blue"),
        ("agents", "--broker-url", "http://here"),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    more = () if "--broker-url" in arguments or arguments[0] != "submit" else ("--broker-url", URL)
    code, out, err = invoke(*arguments, *more)
    assert (code, out) == (ExitCode.USAGE, "")
    assert "Traceback" not in err
    assert err


@pytest.mark.usefixtures("in_memory")
def test_a_bad_line_is_reported_with_its_number_and_the_others_go_on() -> None:
    lines = (
        '{"capability":"test.double","payload":1}\n'
        "\n"
        "nonsense\n"
        '{"capability":"test.double","paylod":2}\n'
        '[{"capability":"test.double"}]\n'
        '{"capability":"test.double","payload":"x"}\n'
        '{"capability":"test.double","payload":5}'
    )
    code, out, err = invoke("submit", "--file", "-", "--json", "--broker-url", URL, given=lines)
    results = {line["line"]: line for line in map(json.loads, out.splitlines())}
    assert code == ExitCode.FAILED
    assert {number: line["status"] for number, line in results.items()} == {
        1: "succeeded",
        3: "rejected",
        4: "rejected",
        5: "rejected",
        6: "failed",
        7: "succeeded",
    }
    assert results[4]["error"]["code"] == "unknown_field"
    assert results[7]["output"] == 10
    assert "line 3: rejected" in err


@pytest.mark.usefixtures("in_memory")
def test_with_a_capability_each_line_is_a_payload(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f"{n}\n" for n in range(5000)))
    code, out, _ = invoke(
        "submit", "test.double", "-f", str(source), "-o", str(output), "--broker-url", URL
    )
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert code == 0
    assert [(line["line"], line["output"]) for line in lines] == [
        (n + 1, 2 * n) for n in range(5000)
    ]
    assert "5,000 succeeded" in out


@pytest.mark.usefixtures("in_memory")
def test_without_waiting_lines_are_only_confirmed() -> None:
    arguments = ("submit", "test.double", "-f", "-", "--no-wait", "--broker-url", URL)
    code, out, err = invoke(*arguments, given="1\n{\n3\n")
    assert code == ExitCode.FAILED
    assert "1 rejected, 2 submitted" in out
    assert "line 2" in err


def test_options_fill_only_what_a_line_leaves_out() -> None:
    options = BulkOptions("-", None, None, {"tenant": "blue", "ttl": 5.0})
    task_of = Bulk(options)._task
    (line,) = LineSplitter().feed(b'{"capability":"a","tenant":"red"}\n')
    assert (task_of(line).tenant, task_of(line).ttl) == ("red", 5.0)


def opposites(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from parameter.secondary_opts
    for one in getattr(command, "commands", {}).values():
        yield from opposites(one)


def test_no_option_is_denied_twice() -> None:
    found = set(opposites(typer.main.get_command(build())))
    assert found == {"--no-wait"}


def test_a_missing_file_is_one_clear_line() -> None:
    code, _, err = invoke("submit", "-f", "/nowhere/at.all", "--broker-url", URL)
    assert code == ExitCode.USAGE
    assert err == (
        "maniple: --file /nowhere/at.all cannot be read: No such file or directory; "
        "give a file of JSON lines, or '-' for standard input\n"
    )


def test_lines_are_cut_wherever_the_chunks_end() -> None:
    splitter = LineSplitter(limit=8)
    chunks = (b"on", b"e\n\ntwo\r\nthree", b"", b"\n", b"x" * 9, b"y" * 9 + b"\nsix", b"\nse")
    lines = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.end()
    assert [(line.number, line.content) for line in lines] == [
        (1, b"one"),
        (3, b"two"),
        (4, b"three"),
        (5, None),
        (6, b"six"),
        (7, b"se"),
    ]


@pytest.mark.parametrize(
    "command",
    [("agents",), ("agent", "drain", "a"), ("doctor",), ("submit", "a.b"), ("policy", "list")],
)
def test_a_cluster_that_is_not_there_is_exit_code_3(command: tuple[str, ...]) -> None:
    code, _, err = invoke(*command)
    assert code == ExitCode.UNREACHABLE
    assert err.startswith("maniple: no cluster") or command == ("doctor",)


def test_doctor_says_what_to_do_about_a_broker_that_does_not_answer() -> None:
    url = f"amqp://guest:guest@127.0.0.1:{closed_port()}/dev"
    code, out, _ = invoke("doctor", "--json", "--broker-url", url)
    (finding,) = json.loads(out)
    assert (code, finding["check"], finding["verdict"]) == (3, "broker", "failed")
    assert "maniple dev" in finding["advice"]


def test_asyncapi_prints_a_document_and_writes_schemas(tmp_path: Path) -> None:
    code, out, _ = invoke("asyncapi", "--schemas", str(tmp_path / "schemas"))
    assert code == 0
    assert json.loads(out)["asyncapi"] == "3.0.0"
    assert json.loads((tmp_path / "schemas" / "Task.json").read_text())["title"] == "Task"


def test_the_program_runs_as_a_process_without_a_traceback() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "from maniple_cli.main import main; main()", "agents"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == ExitCode.UNREACHABLE
    assert ran.stderr.startswith("maniple: no cluster")
    assert ran.stderr.count("\n") == 1


def ready(**more: Any) -> dict[str, Any]:
    return {
        "broker_url": "amqp://outside@h/dev",
        "operator_url": "amqp://operator@h/dev",
        "consul_url": "http://h:1",
        "processes": [],
        **more,
    }


def test_a_running_local_cluster_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="MANIPLE_BROKER_URL"):
        default_broker_url()
    run_file().parent.mkdir(parents=True)
    run_file().write_text(json.dumps(ready(client_url="amqp://client@h/dev", pid=os.getpid())))
    found = find_cluster()
    assert found is not None
    assert found.operator_url == "amqp://operator@h/dev"
    assert default_broker_url() == "amqp://client@h/dev"
    monkeypatch.setenv("MANIPLE_BROKER_URL", URL)
    assert default_broker_url() == URL


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "{", json.dumps(ready(pid=2**22 + 1)), json.dumps(ready(pid="x"))]
)
def test_a_run_file_that_is_stale_or_broken_does_not_count(text: str) -> None:
    run_file().parent.mkdir(parents=True)
    run_file().write_text(text)
    assert find_cluster() is None
