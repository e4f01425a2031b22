"""`maniple demo`, as a user runs it, on a small folder."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ending import launched
from executor_bench import runs
from needs import CONSUL, RABBITMQ, need
from paths import left_in
from waiting import wait_until

COMMAND = (sys.executable, "-c", "from maniple_cli.main import main; main()", "demo")
FILES = 60


@pytest.fixture(autouse=True)
def _own_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demonstration starts servers of its own, whatever the environment names."""
    for name in ("MANIPLE_BROKER_URL", "MANIPLE_CONSUL_URL", "MANIPLE_MANAGEMENT_URL"):
        monkeypatch.delenv(name, raising=False)
    need(RABBITMQ, CONSUL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some files to analyse; one is no Python."""
    body = "def f(x):\n    return [y for y in x if y and x]\n\n\n"
    for number in range(FILES - 1):
        file = tmp_path / f"package{number % 3}" / f"module{number}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(body * (20 + number))
    (tmp_path / "bad.py").write_text("print 'no'\n")
    return tmp_path


def test_every_result_is_verified_although_an_agent_was_killed(folder: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--path", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == f"{FILES} of {FILES} verified, 0 lost"
    killed = re.search(r"killed agent-\d \(pid \d+\) with SIGKILL after (\d+) files", done.stdout)
    assert killed, done.stdout
    assert FILES // 3 <= int(killed[1]) < FILES
    assert re.search(r"agent-\d died: SIGKILL", done.stdout)
    assert re.search(r"^package0 +20 ", done.stdout, re.MULTILINE)


def test_json_is_one_object_and_all_of_standard_output(folder: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--path", str(folder), "--json", "--agents", "1", "--no-kill"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary.pop("seconds") > 0
    assert summary == {
        "submitted": FILES, "succeeded": FILES, "failed": 0, "lost": 0, "verified": FILES,
        "redelivered": 0, "agents": {"agent-1": FILES},
    }  # fmt: skip


async def test_an_interrupt_ends_the_cluster_too(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    running = launched(
        *COMMAND,
        *("--path", str(folder)),
        stdout=asyncio.subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    async with running as process:
        await wait_until(lambda: len(pids_below(scratch)) > 0, 30)
        started = pids_below(scratch)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(180):  # a guard against hanging
            assert await process.wait() == 130
    await wait_until(lambda: not any(map(runs, started)))
    await wait_until(lambda: not left_in(scratch))


def test_a_folder_without_sources_is_wrong_usage(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--path", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr.replace("\n", "")


def pids_below(scratch: Path) -> list[int]:
    """Return the broker's processes, by the pid file that it writes once it runs."""
    texts = [file.read_text() for file in scratch.glob("*/rabbitmq/rabbitmq.pid")]
    return [int(text) for text in texts if text]  # it is there a moment before it is written
