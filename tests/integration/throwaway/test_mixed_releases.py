"""Old and new processes side by side, as in an upgrade that rolls: every task ends as it should."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import mixed_client
from local_servers import SharedServers
from maniple.identifiers import new_id
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from paths import ROOT, SUPPORT
from previous_release import sources, unpack_previous
from recording import recording
from waiting import wait_until

SERVICES = ("registry", "policy", "dispatcher", "agent")
ENDS = {str(number): ["succeeded", None] for number in range(mixed_client.COUNT)} | {
    "late": ["rejected", "deadline_exceeded"],
    "fails": ["failed", "handler_error"],
}
PATIENCE = 120.0  # a guard against hanging


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous release's sources."""
    return unpack_previous(tmp_path_factory.mktemp("previous"))


@pytest.mark.parametrize(
    "older", [{"agent"}, {"dispatcher", "registry", "policy"}], ids=["old agents", "new agents"]
)
async def test_tasks_of_old_and_new_clients_end_the_same(
    shared: SharedServers, previous: Path, older: set[str]
) -> None:
    env = {
        service: {"PYTHONPATH": sources(previous if service in older else ROOT)}
        for service in SERVICES
    }
    options = ClusterOptions(agents=2, dispatchers=1, registries=1, env=env)
    broker = shared.broker(f"mixed-{'-'.join(sorted(older))}")
    async with Cluster(options, broker=broker) as cluster:
        info = cluster.ready_info()
        for root in (previous, ROOT):
            prefix = new_id()
            told = await run_client(root, info["client_url"], prefix)
            assert told == {"newer": root is ROOT, "ends": ENDS}
            await assert_recorded(info["operator_url"], prefix)


async def run_client(root: Path, url: str, prefix: str) -> Any:
    """Run a program with the SDK in `root`; return what it prints."""
    env = os.environ | {"PYTHONPATH": sources(root)}
    script = str(SUPPORT / "mixed_client.py")
    program = await asyncio.create_subprocess_exec(
        sys.executable, script, url, prefix, env=env, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            said, _ = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
    assert program.returncode == 0
    return json.loads(said)


async def assert_recorded(url: str, prefix: str) -> None:
    """Fail unless a new reader finds exactly one end of each task that was admitted."""
    admitted = [f"{prefix}-{name}" for name in ENDS if name != "late"]
    async with recording(url) as records:
        await wait_until(lambda: all(records.whole(task) for task in admitted))
        statuses = {task: {str(r.status) for r in records.results(task)} for task in admitted}
    assert {len(found) for found in statuses.values()} == {1}
