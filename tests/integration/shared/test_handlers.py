"""Handlers that misbehave end with their code, and the agent lives."""

import json
from typing import Any

import pytest
from yarl import URL

from maniple import TaskError, TaskFailed, connect
from maniple_cli.dev_cluster.cluster import Cluster
from needs import PROC, need
from outsider import Outsider
from waiting import wait_until

MISBEHAVING = {
    "test.raise": "handler_error",
    "test.nan": "invalid_output",
    "test.object": "invalid_output",
    "test.block": "timeout",
    "test.block_thread": "timeout",
    "test.hang": "timeout",
    "test.hang_process": "timeout",
    "test.exit": "handler_crashed",
    "test.allocate": "handler_error",
}


@pytest.mark.parametrize("capability", MISBEHAVING)
async def test_a_misbehaving_handler_fails_and_the_agents_live(
    cluster: Cluster, capability: str
) -> None:
    before = [process.pid for process in cluster.of_service("agent")]
    async with connect(cluster.ready_info()["client_url"]) as client:
        handle = await client.submit(capability)
        with pytest.raises(TaskFailed) as caught:
            await handle.result(timeout=60)
        assert caught.value.code == MISBEHAVING[capability]
        assert await (await client.submit("test.double", 1)).result(timeout=60) == 2
    assert [process.pid for process in cluster.of_service("agent")] == before


def test_threads_and_processes_run_handlers(outsider: Outsider) -> None:
    assert outsider.ask("test.threaded", {"payload": [1, 2, 3]})["output"] == 6
    output = outsider.ask("test.process", {"payload": {"a": 1}})["output"]
    assert output["payload"] == {"a": 1}
    assert output["attempt"] == 1


async def test_a_child_that_a_handler_forks_has_none_of_its_agents_connections(
    cluster: Cluster,
) -> None:
    need(PROC)
    port = URL(cluster.ready_info()["broker_url"]).port
    async with connect(cluster.ready_info()["client_url"]) as client:
        ours, theirs = await (await client.submit("test.connections", port)).result(timeout=60)
    assert ours > 0
    assert theirs == 0


async def test_failed_attempts_are_tried_again_through_the_broker(cluster: Cluster) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        handle = await client.submit("test.flaky", 3)
        result = await handle.outcome(timeout=60)
    assert (str(result.status), result.attempt, bytes(result.output)) == ("succeeded", 3, b"3")


async def test_progress_reaches_the_submitter(cluster: Cluster) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        handle = await client.submit("test.progress", 4)
        seen = [value async for value in handle.progress()]
        assert await handle.result(timeout=60) == 4
    assert seen == sorted(seen)
    assert len(seen) >= 3


@pytest.mark.parametrize("capability", ["test.raise", "maniple.fail", "test.allocate"])
async def test_why_a_handler_failed_is_in_the_log_of_its_agent(
    cluster: Cluster, capability: str
) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        result = await (await client.submit(capability)).outcome(timeout=60)
    logs = cluster.data_dir / "logs"

    def told() -> list[dict[str, Any]]:
        lines = (logs / f"{result.agent}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if result.id in line and "Traceback" in line]

    await wait_until(lambda: len(told()) == 1)
    (line,) = told()
    assert (line["capability"], line["attempt"]) == (capability, 1)
    assert line["event"] == "an attempt failed"


async def test_a_failure_carries_code_message_and_detail(cluster: Cluster) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        handle = await client.submit("maniple.fail", {"message": "as asked"})
        with pytest.raises(TaskError) as caught:
            await handle.result(timeout=60)
    assert caught.value.code == "handler_error"
    assert "as asked" in caught.value.message
    assert caught.value.detail == {"type": "RuntimeError"}


async def test_a_handler_is_not_asked_again_before_it_said(cluster: Cluster) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        result = await (await client.submit("test.later")).outcome(timeout=60)
    assert (str(result.status), result.attempt) == ("succeeded", 2)
    assert result.started_at is not None
    assert result.submitted_at is not None
    assert (result.started_at - result.submitted_at).total_seconds() >= 2.5
