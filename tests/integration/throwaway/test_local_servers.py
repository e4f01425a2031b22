"""The servers that `maniple dev` starts: real, private, and gone afterwards."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
import pytest
import requests

from ending import ended
from local_servers import LocalServers
from maniple_cli.dev_cluster.child import Death
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.dev_cluster.errors import LocalError, StartFailed
from maniple_cli.dev_cluster.http import fetch
from maniple_cli.dev_cluster.rabbitmq import RabbitMQServer
from maniple_cli.dev_cluster.reaper import ProcessReaper
from needs import CONSUL, PS, RABBITMQ, need
from paths import left_in
from waiting import wait_until

SERVERS_ONLY = ClusterOptions(services=False)


def round_trip(url: str, text: bytes) -> bytes:
    """Publish and read back as an outside user's reply, through the default exchange."""
    connection: Any = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("maniple.test", durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_publish("", "maniple.test", text, mandatory=True)
        body: bytes = channel.basic_get("maniple.test", auto_ack=True)[2]
        return body
    finally:
        connection.close()


def put(consul_url: str, key: str, value: str) -> None:
    assert requests.put(f"{consul_url}/v1/kv/{key}", data=value, timeout=5).json() is True


def get(consul_url: str, key: str) -> str | None:
    answer = requests.get(f"{consul_url}/v1/kv/{key}?raw", timeout=5)
    return answer.text if answer.ok else None


def processes_that_mention(text: str) -> list[str]:
    """Command lines and environments of other processes that contain `text`."""
    need(PS)
    found = subprocess.run(
        ["ps", "axeww", "-o", "pid=,args="], check=True, capture_output=True, text=True
    )
    mine = {os.getpid(), os.getppid()}
    lines = [line for line in found.stdout.splitlines() if text in line]
    return [line for line in lines if int(line.split()[0]) not in mine]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    need(RABBITMQ, CONSUL)


def test_rabbitmq_takes_and_gives_messages(servers: LocalServers) -> None:
    assert round_trip(servers.rabbitmq.url("dispatcher"), b"hello") == b"hello"


async def test_rabbitmq_refuses_users_without_the_password_of_this_run(
    servers: LocalServers,
) -> None:
    api = servers.rabbitmq.management_url("operator")
    host = api.split("@")[1]
    assert (await fetch(f"{api}/api/overview"))[0] == 200
    assert (await fetch(f"http://guest:guest@{host}/api/whoami"))[0] == 401
    assert (await fetch(f"http://operator:@{host}/api/whoami"))[0] == 401


def test_consul_keeps_values_and_makes_sessions(servers: LocalServers) -> None:
    url = servers.consul.url
    put(url, "a", "1")
    assert get(url, "a") == "1"
    assert requests.put(f"{url}/v1/session/create", timeout=5).json()["ID"]


async def test_a_kept_folder_keeps_messages_and_values_over_a_restart(tmp_path: Path) -> None:
    options = ClusterOptions(services=False, data_dir=tmp_path, environment="kept")
    async with Cluster(options) as cluster:
        put(cluster.servers.consul_url, "a", "1")
        first = cluster.servers.broker_url("dispatcher")
        connection: Any = pika.BlockingConnection(pika.URLParameters(first))
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("maniple.kept", durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_publish("", "maniple.kept", b"still here", mandatory=True)
        connection.close()
    async with Cluster(options) as cluster:
        connection = pika.BlockingConnection(
            pika.URLParameters(cluster.servers.broker_url("agent"))
        )
        assert connection.channel().basic_get("maniple.kept", auto_ack=True)[2] == b"still here"
        connection.close()
        assert get(cluster.servers.consul_url, "a") == "1"


async def test_a_cluster_uses_servers_that_are_already_there(
    servers: LocalServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANIPLE_BROKER_URL", servers.rabbitmq.url("client"))
    monkeypatch.setenv("MANIPLE_CONSUL_URL", servers.consul.url)
    async with Cluster(SERVERS_ONLY) as cluster:
        info = cluster.ready_info()
        assert cluster.servers.children == []
    assert info["operator_url"] == info["broker_url"] == servers.rabbitmq.url("client")
    assert (info["environment"], info["consul_url"]) == (
        servers.rabbitmq.environment,
        servers.consul.url,
    )


async def test_an_existing_server_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, servers: LocalServers
) -> None:
    monkeypatch.setenv("MANIPLE_BROKER_URL", "amqp://guest:guest@127.0.0.1:9/dev")
    monkeypatch.setenv("MANIPLE_CONSUL_URL", servers.consul.url)
    with pytest.raises(LocalError, match=r"MANIPLE_BROKER_URL: no broker answers: 127\.0\.0\.1:9"):
        await Cluster(SERVERS_ONLY).__aenter__()


async def test_a_second_pair_does_not_clash_and_its_dead_broker_is_started_again_where_it_was(
    servers: LocalServers,
) -> None:
    deaths: list[Death] = []
    async with Cluster(SERVERS_ONLY, on_death=deaths.append) as cluster:
        folder, url = cluster.data_dir, cluster.servers.broker_url("agent")
        assert round_trip(url, b"second") == b"second"
        assert round_trip(servers.rabbitmq.url("agent"), b"first") == b"first"
        put(cluster.servers.consul_url, "only-there", "1")
        assert get(servers.consul.url, "only-there") is None
        broker = next(c for c in cluster.servers.children if c.spec.name == "rabbitmq")
        os.killpg(broker.pid, signal.SIGKILL)
        await wait_until(lambda: broker.restarts == 1, 15)
        await wait_until(lambda: accepts(url), 30)
    assert [(death.name, death.cause) for death in deaths] == [("rabbitmq", "SIGKILL")]
    assert deaths[0].restart_in is not None
    assert not folder.exists()
    assert processes_that_mention(str(folder)) == []


def accepts(url: str) -> bool:
    try:
        pika.BlockingConnection(pika.URLParameters(url)).close()
    except (pika.exceptions.AMQPError, OSError):
        return False
    return True


async def test_a_broker_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    server = RabbitMQServer(tmp_path / "rabbitmq")
    (tmp_path / "rabbitmq").mkdir()
    (tmp_path / "rabbitmq" / "data").write_text("in the way")
    with pytest.raises(StartFailed, match=r"(?s)RabbitMQ did not start.*last lines of"):
        await server.start()
    assert processes_that_mention(str(tmp_path)) == []


PARENT = """
    import asyncio, os, sys
    from pathlib import Path
    from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions

    async def main():
        async with Cluster(ClusterOptions(services=False)) as cluster:
            print(cluster.data_dir, flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
"""


def start_parent(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )


async def test_a_parent_killed_by_force_leaves_neither_process_nor_folder(tmp_path: Path) -> None:
    with ended(start_parent(tmp_path)) as parent:
        assert parent.stdout is not None
        folder = (await asyncio.to_thread(parent.stdout.readline)).strip()
        assert folder.startswith(str(tmp_path))
        assert any("beam" in line for line in processes_that_mention(folder))
        parent.kill()
    await wait_until(lambda: not processes_that_mention(str(tmp_path)), 15)
    # The folder goes last, by the hand of who ended them.
    await wait_until(lambda: not left_in(tmp_path), 15)


def test_the_reaper_ends_a_group_that_ignores_sigterm(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{stubborn}; time.sleep(60)"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with ended(process) as child:
        assert child.stdout is not None
        child.stdout.readline()
        reaper = ProcessReaper()
        reaper.watch_group(child.pid)
        reaper.watch_folder(folder)
        reaper.end_reaper()
        assert child.wait(1) == -signal.SIGKILL
    assert not folder.exists()


def test_the_reaper_leaves_alone_what_is_forgotten(tmp_path: Path) -> None:
    with ProcessReaper() as reaper:
        reaper.watch_folder(tmp_path)
        reaper.watch_group(os.getpgid(0))
        reaper.forget_group(os.getpgid(0))
        reaper.forget_folder(tmp_path)
    assert tmp_path.exists()
