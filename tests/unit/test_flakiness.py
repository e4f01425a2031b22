"""`tools/flaky` on small tests of its own, which fail as they are told to."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ending
import flakiness
from executor_bench import runs
from flakiness import load
from flaky_report import RUN, Ended, Run, Side, as_text, read_journal, tally
from needs import PROC, need
from paths import ROOT
from waiting import wait_until

TESTS = """
    import os, time
    from pathlib import Path

    import pytest

    HERE = Path(__file__).parent

    def test_passes():
        pass

    def test_fails_every_other_time():
        count = HERE / "count"
        before = int(count.read_text()) if count.exists() else 0
        count.write_text(str(before + 1))
        assert before % 2 == 0, f"it was {before}"

    def test_is_skipped():
        pytest.skip("not here")

    def test_crashes():
        print("last words", flush=True)
        os.kill(os.getpid(), 11)

    def test_leaves_quietly():
        os._exit(0)

    def test_hangs():
        (HERE / "pid").write_text(str(os.getpid()))
        time.sleep(600)
"""
FLAKY = str(ROOT / "tools" / "flaky")
Flaky = Callable[..., dict[str, Any]]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take seconds to load
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where what failed is kept
    path = tmp_path / "tests" / "test_small.py"
    path.parent.mkdir()
    path.write_text(textwrap.dedent(TESTS))
    return path


@pytest.fixture
def flaky(tmp_path: Path, module: Path) -> Flaky:
    """Runs the program and returns what it says as JSON, with its exit code; tests by name."""

    def run(*names: str, code: int, options: tuple[str, ...] = ()) -> dict[str, Any]:
        chosen = [f"{module}::{name}" for name in names]
        keep = ("--keep", str(tmp_path / "kept"))
        done = subprocess.run(
            [FLAKY, *chosen, "--json", *keep, *options],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == code, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        said["progress"] = done.stderr.splitlines()
        said["tests"] = {one["test"].partition("::")[2]: one for one in said["tests"]}
        return said

    return run


def counts(told: dict[str, Any]) -> tuple[int, int, int]:
    return told["runs"], told["failed"], told["skipped"]


def test_who_fails_beside_the_load_only_is_told_from_who_never_does(flaky: Flaky) -> None:
    said = flaky("test_passes", "test_fails_every_other_time", code=1, options=("--runs", "2"))
    never, sometimes = said["tests"]["test_passes"], said["tests"]["test_fails_every_other_time"]
    assert (counts(never["alone"]), counts(never["loaded"])) == ((2, 0, 0), (2, 0, 0))
    assert (counts(sometimes["alone"]), counts(sometimes["loaded"])) == ((2, 0, 0), (2, 2, 0))
    (kind,) = sometimes["failures"]  # "it was 1" and "it was 3" are one
    assert kind["message"].startswith("AssertionError: it was 1\n")
    assert (kind["alone"], kind["loaded"]) == (0, 2)
    assert kind["where"].endswith("test_small.py:16")
    first, second = (Path(path).read_text() for path in kind["outputs"])
    assert ("it was 1" in first, "it was 3" in second) == (True, True)
    assert [line.partition(": ")[0] for line in said["progress"]] == [
        "run 1 of 4, alone", "run 2 of 4, loaded", "run 3 of 4, alone", "run 4 of 4, loaded",
    ]  # fmt: skip


def test_of_what_passed_nothing_is_kept(flaky: Flaky, tmp_path: Path) -> None:
    said = flaky("test_passes", "test_is_skipped", code=0, options=("--runs", "1", "--load", "1"))
    assert counts(said["tests"]["test_is_skipped"]["alone"]) == (1, 0, 1)
    assert said["folder"] is None
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("test_crashes", "SIGSEGV"), ("test_leaves_quietly", "exit code 0, and not by itself")],
)
def test_a_run_that_dies_is_the_failure_of_the_test_that_was_under_way(
    flaky: Flaky, name: str, message: str
) -> None:
    options = ("--runs", "1", "--only", "alone")
    said = flaky("test_passes", name, code=1, options=options)["tests"]
    assert counts(said["test_passes"]["alone"]) == (1, 0, 0)
    assert counts(said[name]["alone"]) == (1, 1, 0)
    (kind,) = said[name]["failures"]
    assert message in kind["message"]
    assert f"{name} " in Path(kind["outputs"][0]).read_text()


async def test_a_run_that_hangs_is_ended_and_says_where_it_was(tmp_path: Path) -> None:
    output = tmp_path / "output"
    program = "import time\ndef hang():\n  print('begun', flush=True)\n  time.sleep(600)\nhang()"
    with output.open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it does not block
            [sys.executable, "-X", "faulthandler", "-c", program],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with ending.ended(process):
        await wait_until(lambda: "begun" in output.read_text())
        assert flakiness._wait(process, 0.1) == "the run took longer than 0.1 s"
    assert not runs(process.pid)
    assert "in hang" in output.read_text()


def test_a_run_that_took_too_long_is_the_failure_of_the_test_that_was_under_way() -> None:
    lines = journal({"phase": "begun"}, {"phase": "setup", "seconds": 0.5, "outcome": "passed"})
    ended = read_journal(lines, -signal.SIGABRT, "too long")
    assert ended == (Ended("t", "failed", 0.5, message="too long"),)
    assert read_journal([], -signal.SIGABRT, "too long") == (
        Ended(RUN, "failed", message="too long"),
    )


@pytest.mark.parametrize("arguments", [(), ("nowhere.py",), ("--runs", "0", ".")])
def test_wrong_usage_has_an_exit_code_of_its_own(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    command = [FLAKY, *arguments]
    done = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr


def test_where_everything_is_skipped_nothing_has_passed(flaky: Flaky) -> None:
    said = flaky("test_is_skipped", code=2, options=("--runs", "1", "--only", "alone"))
    assert counts(said["tests"]["test_is_skipped"]["alone"]) == (1, 0, 1)


async def test_the_load_is_gone_when_its_block_ends() -> None:
    with contextlib.suppress(ZeroDivisionError), load(4) as loops:
        assert (len(set(loops)), all(map(runs, loops))) == (4, True)
        raise ZeroDivisionError
    assert not any(map(runs, loops))


def children(pid: int) -> set[int]:
    """The processes that one has started and that it still has."""
    need(PROC)
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


@pytest.fixture
def hanging(module: Path) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], int]]]:
    """The program with a test that hangs beside two loops, and who asks for that one's process."""
    command = [FLAKY, f"{module}::test_hangs", "--only", "loaded", "--load", "2"]
    written = module.parent / "pid"

    def under_way() -> int:
        return int(written.read_text() or 0) if written.exists() else 0

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process, under_way
        finally:
            process.kill()
            if runs(under_way()):
                os.kill(under_way(), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_the_load_is_gone_however_the_program_ends(
    hanging: tuple[subprocess.Popen[bytes], Callable[[], int]], number: signal.Signals
) -> None:
    process, under_way = hanging
    await wait_until(lambda: under_way() > 0, 30)
    started = children(process.pid)
    assert (len(started), under_way() in started) == (3, True)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    if number is signal.SIGKILL:
        started.remove(under_way())  # nobody was left to end it
    else:
        assert (process.returncode, b"full output" in said) == (128 + number, True)
    await wait_until(lambda: not any(map(runs, started)))


def journal(*said: dict[str, Any]) -> list[str]:
    return [json.dumps({"test": "t"} | one) for one in said]


def test_what_fails_after_its_test_is_a_failure_too() -> None:
    wrong = {"outcome": "failed", "where": "conftest.py:1", "message": "left open"}
    lines = journal(
        {"phase": "begun"},
        {"phase": "call", "seconds": 1.5, "outcome": "passed"},
        {"phase": "teardown", "seconds": 0.5} | wrong,
    )
    ended = read_journal([*lines, '{"exit": 1}'], 1)
    assert ended == (Ended("t", "failed", 2.0, "conftest.py:1", "left open"),)


@pytest.mark.parametrize(("said", "code"), [(1, 1), (0, -signal.SIGSEGV), (3, 3)])
def test_a_run_that_ends_badly_after_all_tests_passed_has_failed(said: int, code: int) -> None:
    lines = journal({"phase": "begun"}, {"phase": "teardown", "seconds": 0, "outcome": "passed"})
    passed, run = read_journal([*lines, json.dumps({"exit": said})], code)
    assert (passed.outcome, run.test, run.outcome) == ("passed", RUN, "failed")


def test_a_module_that_cannot_be_read_has_failed() -> None:
    """No test of it has begun."""
    wrong = {"outcome": "failed", "where": "t.py:1", "message": "ModuleNotFoundError"}
    lines = journal({"phase": "collect", "seconds": 0.0} | wrong)
    assert [one.outcome for one in read_journal([*lines, '{"exit": 2}'], 2)] == ["failed"]


def test_people_see_counts_times_messages_and_where_the_rest_is() -> None:
    bad = Ended("t", "failed", 3.0, "t.py:7", "AssertionError: no\nassert 1 == 2\nmore\nand more")
    done = [
        Run(Side.ALONE, (Ended("t", "passed", 1.0), Ended("u", "passed", 1.0)), Path("1")),
        Run(Side.LOADED, (bad, Ended("u", "skipped")), Path("run-002.txt")),
    ]
    assert list(as_text(tally(done))) == [
        "t",
        "  alone   0 of 1 failed, median 1.00 s, max 1.00 s",
        "  loaded  1 of 1 failed, median 3.00 s, max 3.00 s",
        "  failed (1 loaded) t.py:7",
        "    | AssertionError: no",
        "    | assert 1 == 2",
        "    | more",
        "    run-002.txt",
        "u",
        "  alone   0 of 1 failed, median 1.00 s, max 1.00 s",
        "  loaded  0 of 1 failed, 1 skipped",
    ]
