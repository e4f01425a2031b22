"""What a local cluster keeps to itself: passwords in the environment of handlers, and its files."""

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from maniple.client import connect
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.dev_cluster.definitions import Role
from needs import CONSUL, RABBITMQ, need
from paths import PYTHONPATH

TOKEN = "a-token-of-consul"  # noqa: S105 - of nothing
OTHERS = "http://somebody:hunter2@host:1"


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One agent with curious handlers, and a broker with a user for each role."""
    need(RABBITMQ, CONSUL)
    agent = {
        "PYTHONPATH": PYTHONPATH,
        "MANIPLE_CONSUL_TOKEN": TOKEN,
        "maniple_management_url": OTHERS,
    }
    options = ClusterOptions(
        agents=1,
        registries=1,
        policies=0,
        handlers=("curious_handlers",),
        data_dir=tmp_path_factory.mktemp("there") / "data",
        env={"agent": agent},
    )
    async with Cluster(options) as made:
        yield made


@pytest.mark.parametrize("capability", ["curious.thread", "curious.process", "curious.child"])
async def test_a_handler_reads_no_password_but_that_of_a_client(
    cluster: Cluster, capability: str
) -> None:
    servers = cluster.servers
    async with connect(servers.broker_url(Role.CLIENT)) as client:
        told = json.dumps(await (await client.submit(capability)).result())
    for secret in (servers.broker_url(Role.AGENT), TOKEN, OTHERS):
        assert secret not in told
    assert servers.broker_url(Role.CLIENT) in told


async def test_a_handler_may_submit_a_task_and_wait_for_it(cluster: Cluster) -> None:
    async with connect(cluster.servers.broker_url(Role.CLIENT)) as client:
        assert await (await client.submit("curious.nested", {"a": 1})).result() == {"a": 1}


async def test_nobody_else_reads_the_files_of_a_local_cluster(cluster: Cluster) -> None:
    folder = cluster.data_dir
    assert _open_to_others(folder) == []
    assert {path.name for path in folder.iterdir()} >= {"logs", "rabbitmq", "consul"}


def _open_to_others(folder: Path) -> list[Path]:
    everything = [folder, *folder.rglob("*")]
    return [
        path
        for path in everything
        if not path.is_symlink() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]
