"""A cancelled task ends when it passes a dispatcher."""

import structlog

from maniple_cli.dev_cluster.cluster import Cluster
from maniple_runtime.control.messages import Cancel
from maniple_runtime.control.plane import ControlPlane
from maniple_runtime.control.routing_keys import ALL_AGENTS
from outsider import Outsider


async def test_a_task_that_waits_is_cancelled_and_others_are_not(
    cluster: Cluster, outsider: Outsider
) -> None:
    kept, gone = (
        outsider.send("nobody.serves.this", {"id": task, "tenant": "acme", "ttl": 6})
        for task in ("kept", "gone")
    )
    url = cluster.ready_info()["operator_url"]
    async with ControlPlane(url, name="test.cancel", log=structlog.get_logger()) as plane:
        for tenant, task in (("acme", "gone"), ("other", "kept")):
            assert await plane.command(ALL_AGENTS, Cancel(tenant=tenant, id=task))
    result = outsider.wait(gone)[0]
    assert (result["id"], result["status"], result["error"]["code"]) == (
        "gone",
        "cancelled",
        "cancelled",
    )
    assert outsider.wait(kept)[0]["status"] == "expired"


async def test_a_task_that_is_cancelled_before_it_comes_never_runs(
    cluster: Cluster, outsider: Outsider
) -> None:
    url = cluster.ready_info()["operator_url"]
    async with ControlPlane(url, name="test.cancel", log=structlog.get_logger()) as plane:
        await plane.command(ALL_AGENTS, Cancel(id="early"))
    # The command and the task travel apart: one that came first has run.
    for number in range(100):
        result = outsider.ask("test.double", {"id": "early", "payload": number})
        if result["status"] == "cancelled":
            break
    assert result["status"] == "cancelled"
    assert outsider.ask("test.double", {"id": "late", "payload": 1})["output"] == 2
