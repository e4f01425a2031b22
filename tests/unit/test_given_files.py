"""Files that are given to the command line, whatever they are, and what it prints to."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from maniple import task
from maniple.testing import cluster
from maniple_cli.commands import bulk, submit
from maniple_cli.commands.policy.files import WrongFiles, read_all
from maniple_cli.main import build
from maniple_cli.output import ExitCode

FULL = Path("/dev/full")
GUARD = 60.0  # seconds, against hanging
POLICY = "kind: retry\nname: a\nspec:\n  attempts: 2\n"
COMMAND = (sys.executable, "-c", "from maniple_cli.start import main; main()")


@task("test.echo")
async def echo(payload: Any) -> Any:
    return payload


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (submit, bulk):
        monkeypatch.setattr(module, "connect", lambda _: cluster(echo))


def invoke(*arguments: str, given: bytes = b"") -> tuple[int, str, str]:
    url = ("--broker-url", "amqp://test@memory/dev")
    result = CliRunner().invoke(build(), ["submit", "test.echo", *arguments, *url], input=given)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("kind", ["itself", "link", "hard link"])
def test_results_do_not_overwrite_what_is_to_be_read(kind: str, tmp_path: Path) -> None:
    source, output = tmp_path / "x", tmp_path / "x"
    source.write_text("1\n")
    if kind != "itself":
        output = tmp_path / "y"
        output.symlink_to(source) if kind == "link" else output.hardlink_to(source)
    code, _, err = invoke("-f", str(source), "-o", str(output))
    assert (code, source.read_text()) == (ExitCode.USAGE, "1\n")
    assert "is the file that is to be read" in err


def test_what_is_redirected_to_standard_input_is_not_overwritten_either(tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_text("1\n")
    arguments = ("submit", "a", "-f", "-", "-o", str(source), "--broker-url", "amqp://127.0.0.1:1")
    with source.open("rb") as opened:
        done = run(*arguments, stdin=opened)
    assert (done.returncode, source.read_text()) == (ExitCode.USAGE, "1\n")


def test_earlier_results_stay_when_no_cluster_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_: str) -> Any:
        raise OSError("nobody answers")

    monkeypatch.setattr(bulk, "connect", unreachable)
    output = tmp_path / "y"
    output.write_text("earlier")
    code, _, _ = invoke("-f", "-", "-o", str(output), given=b"1\n")
    assert (code, output.read_text()) == (ExitCode.FAILED, "earlier")


@pytest.mark.parametrize("text", ["1\n", '"a"', "12"])
def test_a_mark_before_the_first_line_is_dropped(text: str) -> None:
    code, out, err = invoke("-f", "-", "--json", given=text.encode("utf-8-sig"))
    assert (code, [json.loads(line)["output"] for line in out.splitlines()]) == (
        0,
        [json.loads(text)],
    )
    assert err.startswith("1 tasks")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named(encoding: str, tmp_path: Path) -> None:
    source = tmp_path / "x.jsonl"
    source.write_text('{"a": 1}\n', encoding=encoding)
    code, out, err = invoke("-f", str(source))
    assert (code, out) == (ExitCode.USAGE, "")
    assert f"{source}: is UTF-16 or UTF-32: save it as UTF-8" in err


@pytest.mark.parametrize("content", ['{"a": 1}\n'.encode("utf-16"), None])
def test_earlier_results_stay_when_nothing_can_be_read(
    content: bytes | None, tmp_path: Path
) -> None:
    source, output = tmp_path / "x.jsonl", tmp_path / "y"
    output.write_text("earlier")
    if content is not None:
        source.write_bytes(content)
    code, _, err = invoke("-f", str(source), "-o", str(output))
    assert (code, output.read_text()) == (ExitCode.USAGE, "earlier")
    assert str(source) in err


def test_what_cannot_be_read_or_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    wrong = {
        ("-f", str(tmp_path)): f"--file {tmp_path} cannot be read: Is a directory; give a file",
        ("-f", "-", "-o", str(tmp_path)): f"--output {tmp_path} cannot be written: Is a directory",
        ("-f", "-", "-o", f"{tmp_path}/no/x"): (
            f"--output {tmp_path}/no/x cannot be written: No such file or directory; "
            "give a file that may be written, in a folder that is there"
        ),
    }
    for arguments, said in wrong.items():
        code, out, err = invoke(*arguments, given=b"1\n")
        assert (code, out) == (ExitCode.USAGE, "")
        assert said in err
        assert err.count("\n") == 1


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("number", [1, 5000])  # what fails is the closing, or a line
def test_results_for_which_there_is_no_room_are_told_by_their_file(number: int) -> None:
    code, _, err = invoke("-f", "-", "-o", str(FULL), given=b"1\n" * number)
    assert code == ExitCode.FAILED
    assert f"maniple: --output {FULL} cannot be written: No space left on device; not all" in err


@pytest.mark.parametrize("first", ["", "test.echo"])
def test_a_mark_before_a_later_line_is_told_as_what_it_is(first: str) -> None:
    line = '{"capability": "test.echo"}\n'
    given = (line + "\ufeff" + line).encode("utf-8-sig")
    url = ("--broker-url", "amqp://test@memory/dev")
    arguments = ["submit", *filter(None, [first]), "-f", "-", *url]
    done = CliRunner().invoke(build(), arguments, input=given)
    assert done.exit_code == ExitCode.FAILED
    assert "line 2: rejected: undecodable: it begins with a byte order mark" in done.stderr


def test_an_empty_input_is_no_task() -> None:
    for given in (b"", b"\xef\xbb\xbf", b"\n"):
        code, out, _ = invoke("-f", "-", given=given)
        assert (code, out.startswith("0 tasks")) == (ExitCode.DONE, True)


@pytest.mark.parametrize(
    "text", [POLICY, '{\t"kind": "retry", "name": "a", "spec": {"attempts": 2}}']
)
def test_a_mark_before_a_policy_is_dropped(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8-sig")
    (given,) = read_all([str(path)])
    assert given.policy.key == "retry/a"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POLICY.encode("utf-16"), "is UTF-16 or UTF-32"),
        (b"name: \xff\n", "is not UTF-8"),
        (POLICY.encode() + b"#" * 9_000_000, "is larger than"),
    ],
)
def test_a_policy_that_cannot_be_read_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(WrongFiles, match=f"{path}: {said}"):
        read_all([str(path)])


def test_a_policy_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(build(), ["policy", "apply", str(tmp_path / "no")])
    assert result.exit_code == ExitCode.USAGE
    assert f"{tmp_path}/no: cannot be read: No such file or directory" in result.stderr


@pytest.mark.parametrize("option", ["--output", "--schemas"])
def test_a_contract_that_cannot_be_written_is_named(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(build(), ["asyncapi", option, f"{tmp_path}/file/x"])
    assert result.exit_code == ExitCode.USAGE
    assert f"{tmp_path}/file/x cannot be written: Not a directory" in result.stderr


def test_a_policy_on_standard_input_that_is_no_text_is_named() -> None:
    result = CliRunner().invoke(build(), ["policy", "apply", "-"], input=b"name: \xff\n")
    assert result.exit_code == ExitCode.USAGE
    assert "<stdin>: is not UTF-8" in result.stderr


def test_a_ready_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(build(), ["dev", "--ready-file", str(tmp_path)])
    assert result.exit_code == ExitCode.USAGE
    assert "--ready-file" in result.stderr


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        text=True,
        stderr=subprocess.PIPE,
        timeout=GUARD,
        **options,
    )


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [("asyncapi",), ("--version",), ("submit", "--help")])
def test_a_full_disk_is_one_line_and_exit_code_1(arguments: tuple[str, ...]) -> None:
    with FULL.open("w") as full:
        done = run(*arguments, stdout=full)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr.endswith("No space left on device\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("asyncapi",), ("--version",), ("submit", "--help")])
def test_who_reads_no_more_hears_no_complaint(arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = run(*arguments, stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (ExitCode.FAILED, "")
