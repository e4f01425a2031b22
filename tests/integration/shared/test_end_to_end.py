"""One task from an outside publisher to an agent and back, and many of them."""

import uuid
from typing import Any

import msgspec
import pytest

from maniple import connect
from maniple.topology import DEAD_BROKER, SUBMIT, UNROUTED_QUEUE, lane_queues
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_cli.dev_cluster.http import fetch
from outsider import Outsider
from recording import recording
from waiting import wait_until

TASKS = 5000


@pytest.mark.parametrize("direct", [False, True], ids=["own queue", "direct reply-to"])
def test_a_program_without_maniple_gets_its_result(cluster: Cluster, direct: bool) -> None:
    with Outsider(cluster.ready_info()["broker_url"], direct=direct) as client:
        result = client.ask("test.double", {"payload": 21}, message_id="answer")
    assert (result["status"], result["output"], result["id"]) == ("succeeded", 42, "answer")
    assert result["agent"].startswith("agent-")
    assert result["lane"] == "test.double"
    assert result["submitted_at"] <= result["started_at"] <= result["finished_at"]


def test_members_of_an_array_get_ids_derived_from_the_message(outsider: Outsider) -> None:
    message_id = str(uuid.uuid4())
    tasks = [{"capability": "test.double", "payload": n} for n in range(5)]
    results = outsider.wait(outsider.send("batch", tasks, message_id=message_id), count=5)
    expected = {str(uuid.uuid5(uuid.UUID(message_id), str(n))): n * 2 for n in range(5)}
    assert {result["id"]: result["output"] for result in results} == expected


def test_a_trace_is_continued_and_a_malformed_one_begins_anew(outsider: Outsider) -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    continued = outsider.ask("maniple.echo", {}, headers={"traceparent": given})
    begun = outsider.ask("maniple.echo", {"traceparent": "nonsense"})
    assert continued["traceparent"] == given
    assert begun["traceparent"].startswith("00-")
    assert "nonsense" not in begun["traceparent"]


def test_a_task_that_no_agent_serves_waits_and_then_expires(outsider: Outsider) -> None:
    result = outsider.ask("nobody.serves.this", {"ttl": 1.5})
    assert (result["status"], result["error"]["code"]) == ("expired", "deadline_exceeded")
    assert "no agent" in result["error"]["message"]


async def test_five_thousand_tasks_end_to_end_are_all_right(cluster: Cluster) -> None:
    async with connect(cluster.ready_info()["client_url"]) as client:
        outputs = [output async for output in client.map("test.double", range(TASKS))]
    assert outputs == [n * 2 for n in range(TASKS)]
    await wait_until_clean(cluster, "test.double")
    for process in cluster.processes:
        status, _ = await fetch(f"{process.http}/health")
        assert status == 200, process.instance


async def test_every_task_leaves_two_records(cluster: Cluster) -> None:
    info = cluster.ready_info()
    async with connect(info["client_url"]) as client, recording(info["operator_url"]) as records:
        one, two = [await client.submit("test.double", n) for n in (4, 5)]
        assert [await one.result(timeout=60), await two.result(timeout=10)] == [8, 10]
        await wait_until(lambda: records.whole(one.id) and records.whole(two.id))
    for task in (one.id, two.id):
        assert (len(records.accepted(task)), len(records.results(task))) == (1, 1)


async def wait_until_clean(cluster: Cluster, lane: str) -> None:
    """Return once no queue on the way of a lane's tasks holds a message.

    Other tests leave tasks of lanes that nobody serves any more in this cluster.
    """
    info = cluster.ready_info()
    ours = {queue.name for queue in (SUBMIT, UNROUTED_QUEUE, DEAD_BROKER, *lane_queues(lane))}

    async def clean() -> bool:
        _, body = await fetch(f"{info['management_url']}/api/queues/{info['environment']}")
        queues: list[dict[str, Any]] = msgspec.json.decode(body)
        found = [queue for queue in queues if queue["name"] in ours]
        assert len(found) == len(ours)
        return not any(queue.get("messages") for queue in found)

    await wait_until(clean, 30)  # the figures are up to 12 s old
