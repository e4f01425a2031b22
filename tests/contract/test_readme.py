"""The README is true: its programs run against a real cluster, its commands exist."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from documents import blocks, program
from ending import launched
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_cli.dev_cluster.http import fetch
from maniple_cli.dev_cluster.ports import LOOPBACK, free_ports
from paths import ROOT
from products import PACKAGES
from waiting import wait_until

README = ROOT / "README.md"
CLIENTS = {"count.py": "client_url", "outsider.py": "broker_url"}
WHEEL = "wheels/maniple-0.1.0-py3-none-any.whl"
SECONDS = 30.0


def expected(file: str) -> str:
    """Return the first block of text after a program, which is what it prints."""
    found = blocks(README)
    place = next(number for number, block in enumerate(found) if block.file == file)
    return next(block.text for block in found[place:] if block.language == "text")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def agent(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[asyncio.subprocess.Process]:
    """An agent with the README's handler, started as the README says."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "words.py").write_text(program(README, "words.py"))
    (port,) = free_ports(1)
    environ = os.environ | {
        "MANIPLE_BROKER_URL": cluster.servers.broker_url("agent"),
        "MANIPLE_CONSUL_URL": cluster.servers.consul_url,
        "MANIPLE_HTTP_PORT": str(port),
        "MANIPLE_HANDLERS": "words",
    }
    command = (sys.executable, "-m", "maniple_agent")
    with (folder / "agent.log").open("wb") as log:
        async with launched(*command, cwd=folder, env=environ, stderr=log) as process:
            try:
                await wait_until(lambda: _ready(port), SECONDS)
                yield process
            finally:
                process.terminate()
                async with asyncio.timeout(SECONDS):
                    await process.wait()


async def _ready(port: int) -> bool:
    status, _ = await fetch(f"http://{LOOPBACK}:{port}/ready")
    return status == 200


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("file", CLIENTS)
async def test_a_program_of_the_readme_prints_what_it_says(
    cluster: Cluster, tmp_path: Path, file: str
) -> None:
    (tmp_path / file).write_text(program(README, file))
    running = launched(
        sys.executable,
        file,
        cwd=tmp_path,
        env=os.environ | {"MANIPLE_BROKER_URL": cluster.ready_info()[CLIENTS[file]]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with running as process, asyncio.timeout(SECONDS):
        printed, complaints = await process.communicate()
    assert (process.returncode, printed.decode()) == (0, expected(file)), complaints.decode()


@pytest.fixture(scope="module")
def sdk_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the SDK's wheel and what it needs into an empty environment; return its Python."""
    folder = tmp_path_factory.mktemp("alone")
    environ = os.environ | {"UV_PROJECT_ENVIRONMENT": str(folder), "UV_OFFLINE": "1"}
    uv = environ.get("UV") or shutil.which("uv") or str(ROOT / ".maniple" / "tools" / "bin" / "uv")
    python = folder / "bin" / "python"
    # The index is not asked: `make setup` has fetched what uv.lock says.
    for command in (
        ("sync", "--locked", "--package", "maniple", "--no-default-groups", "--no-install-project"),
        ("build", "--wheel", "--package", "maniple", "--out-dir", str(folder / "wheels")),
        ("pip", "install", "--python", str(python), "--no-deps", str(folder / WHEEL)),
        ("pip", "check", "--python", str(python)),
    ):
        subprocess.run([uv, *command], cwd=ROOT, env=environ, check=True)
    return python


@pytest.mark.usefixtures("agent")
async def test_a_client_runs_where_the_sdk_alone_is_installed(
    cluster: Cluster, sdk_alone: Path, tmp_path: Path
) -> None:
    for file in ("words.py", "count.py"):
        (tmp_path / file).write_text(program(README, file))
    found = (
        f"import words, importlib.util as u; print([p for p in {list(PACKAGES)} if u.find_spec(p)])"
    )
    environ = {
        "MANIPLE_BROKER_URL": cluster.ready_info()["client_url"],
        "PYTHONPATH": "",
    }
    for arguments, said in (
        (("-c", found), "['maniple']\n"),
        (("count.py",), expected("count.py")),
    ):
        running = launched(
            str(sdk_alone),
            *arguments,
            cwd=tmp_path,
            env=os.environ | environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with running as process, asyncio.timeout(SECONDS):
            printed, complaints = await process.communicate()
        assert (process.returncode, printed.decode()) == (0, said), complaints.decode()


def test_every_python_block_of_the_readme_is_run() -> None:
    assert {block.file for block in blocks(README, "python")} == {"words.py", *CLIENTS}


def test_the_handler_and_its_client_take_fifteen_lines() -> None:
    lines = "".join(program(README, file) for file in ("words.py", "count.py")).splitlines()
    assert sum(bool(line) and not line.startswith("#") for line in lines) <= 15
