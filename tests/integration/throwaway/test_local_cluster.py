"""The cluster around the services: start, watch, restart, drain. The services are stand-ins."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import fake_service
from ending import ended
from local_servers import LocalServers
from maniple_cli.dev_cluster.child import Death
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.dev_cluster.errors import StartFailed
from maniple_cli.dev_cluster.http import fetch
from waiting import wait_until

DEV = "import typer; from maniple_cli.commands.dev import dev; typer.run(dev)"
PATIENCE = 90.0  # a guard against hanging


@pytest.fixture
def fakes(tmp_path: Path, servers: LocalServers, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins that are found before the services; servers that are there already."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    monkeypatch.setenv("MANIPLE_BROKER_URL", servers.rabbitmq.url("operator"))
    monkeypatch.setenv("MANIPLE_CONSUL_URL", servers.consul.url)
    monkeypatch.setenv("PYTHONPATH", str(fake_service.install(folder)), prepend=os.pathsep)
    return folder


@pytest.mark.usefixtures("fakes")
async def test_every_process_is_ready_and_listed(tmp_path: Path) -> None:
    async with Cluster(ClusterOptions(agents=3, dispatchers=2, data_dir=tmp_path)) as cluster:
        processes = cluster.ready_info()["processes"]
        answers = [await fetch(f"{process['http']}/ready") for process in processes]
    assert Counter(process["service"] for process in processes) == {
        "registry": 2, "policy": 1, "dispatcher": 2, "agent": 3,
    }  # fmt: skip
    assert len({process["instance"] for process in processes}) == 8
    assert answers == [(200, "ready")] * 8


@pytest.mark.usefixtures("fakes")
async def test_a_killed_agent_is_told_and_comes_back_on_its_port() -> None:
    deaths: list[Death] = []
    async with Cluster(ClusterOptions(agents=1), on_death=deaths.append) as cluster:
        agent = cluster.of_service("agent")[0]
        old = agent.pid
        os.kill(old, signal.SIGKILL)
        await wait_until(lambda: agent.child.restarts == 1)
        assert cluster.process(agent.instance).pid != old
    assert [(death.name, death.pid, death.cause) for death in deaths] == [
        (agent.instance, old, "SIGKILL")
    ]
    assert "serves" in deaths[0].tail
    assert cluster.kept is None


@pytest.mark.usefixtures("fakes")
async def test_without_restart_a_dead_agent_stays_dead() -> None:
    async with Cluster(ClusterOptions(agents=2, restart=False)) as cluster:
        agent = cluster.of_service("agent")[0]
        os.kill(agent.pid, signal.SIGKILL)
        await wait_until(lambda: bool(cluster.deaths))
        assert cluster.deaths[0].restart_in is None
        assert not agent.child.running


@pytest.mark.usefixtures("fakes")
async def test_a_service_that_dies_while_starting_fails_the_start_with_its_last_words(
    tmp_path: Path,
) -> None:
    options = ClusterOptions(data_dir=tmp_path, env={"agent": {"FAKE_FAILS": "1"}})
    with pytest.raises(StartFailed, match=r"(?s)agent-\d.*exit status 1.*shop\.orders"):
        await Cluster(options).__aenter__()


@pytest.mark.usefixtures("fakes")
async def test_the_end_drains_every_service(tmp_path: Path) -> None:
    async with Cluster(ClusterOptions(data_dir=tmp_path)) as cluster:
        logs = [process.child.spec.log for process in cluster.processes]
    assert len(logs) == 7
    assert all(log.read_text().endswith("drained\n") for log in logs)


def dev(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", DEV, *arguments], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("fakes")
async def test_dev_writes_the_ready_file_and_ends_on_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    ready = tmp_path / "ready.json"
    with ended(dev("--agents", "1", "--ready-file", str(ready))) as process:
        await wait_until(ready.exists, 30)
        info = json.loads(ready.read_text())
        process.send_signal(number)
        process.send_signal(number)  # as `uv run` does with a signal to its whole group
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert {entry["service"] for entry in info["processes"]} == set(fake_service.SERVICES)
    assert not any(_alive(entry["pid"]) for entry in info["processes"])
    assert _is_gone(info["data_dir"])
    assert "everything is ready" in output
    assert output.endswith("draining\nstopped\n")


@pytest.mark.usefixtures("fakes")
async def test_dev_tells_a_death_and_writes_the_new_pid(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    with ended(dev("--agents", "1", "--ready-file", str(ready))) as process:
        await wait_until(ready.exists, 30)
        before = _agent_pid(ready)
        os.kill(before, signal.SIGKILL)
        await wait_until(lambda: _agent_pid(ready) != before)
        process.terminate()
        output, _ = process.communicate(timeout=PATIENCE)
    assert f"(pid {before}) died: SIGKILL; restarting in" in output
    assert "    agent-1" in output


def test_dev_refuses_a_module_that_is_not_there() -> None:
    result = subprocess.run(
        [sys.executable, "-c", DEV, "--handlers", "shop.orders"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "shop.orders" in result.stderr


def test_dev_says_3_when_the_named_broker_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANIPLE_BROKER_URL", "amqp://guest:guest@127.0.0.1:9/dev")
    monkeypatch.setenv("MANIPLE_CONSUL_URL", "http://127.0.0.1:9")
    with ended(dev()) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    assert "MANIPLE_CONSUL_URL" in output


def _agent_pid(ready: Path) -> int:
    entries = json.loads(ready.read_text())["processes"]
    return next(int(entry["pid"]) for entry in entries if entry["service"] == "agent")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _is_gone(folder: str) -> bool:
    return not Path(folder).exists()
