"""Agents that leave, and agents that freeze and come back."""

import asyncio
import os
import signal
import sys
from typing import Any

from dying import TIME_SCALE
from holding import held
from maniple import connect
from maniple.timings import Timings
from maniple_cli.control import ask
from maniple_cli.dev_cluster.cluster import Cluster
from maniple_runtime.metric_names import IN_FLIGHT
from scraping import scrape
from waiting import wait_until

# Of silence; the campaign says whether the real ones are kept to.
FAILED_SECONDS = Timings().scaled(TIME_SCALE).bounds.failed


async def known(cluster: Cluster, agent: str) -> dict[str, Any]:
    """Return what the registry says of an agent."""
    return await ask(cluster.ready_info()["operator_url"], "registry", "agent", {"id": agent})


async def test_an_agent_that_drains_hands_back_what_waits_and_finishes_what_runs(
    trio: Cluster,
) -> None:
    leaving = trio.process("agent-1")
    restarts = leaving.child.restarts
    async with connect(trio.ready_info()["client_url"]) as client:
        handles = [await client.submit("maniple.sleep", {"seconds": 1.0}) for _ in range(48)]
        # By then all have begun their second round, and more waits in each.
        await wait_until(lambda: any(handle.done for handle in handles))
        os.kill(leaving.pid, signal.SIGTERM)
        results = [await handle.outcome(timeout=60) for handle in handles]
    assert {result.status.value for result in results} == {"succeeded"}
    assert {(result.attempt, result.lost) for result in results} == {(1, 0)}
    assert {result.agent for result in results} == {"agent-1", "agent-2", "agent-3"}
    await wait_until(lambda: leaving.child.restarts > restarts, 20)
    await wait_until(leaving.ready, 20)


async def test_a_frozen_agent_is_evicted_and_comes_back_as_a_new_incarnation(
    trio: Cluster,
) -> None:
    frozen = trio.process("agent-2")
    before = (await known(trio, "agent-2"))["incarnation"]
    async with connect(trio.ready_info()["client_url"]) as client:
        handles = [await client.submit("maniple.sleep", {"seconds": 0.5}) for _ in range(24)]
        with held(frozen.pid):
            # The broker gives it some of these too.
            handles += [await client.submit("maniple.sleep", {"seconds": 0.1}) for _ in range(24)]
            await wait_until(lambda: all(handle.done for handle in handles), FAILED_SECONDS + 3)
        results = [await handle.outcome() for handle in handles]
        assert {result.status.value for result in results} == {"succeeded"}
        assert any(result.lost == 1 for result in results)

        async def is_back() -> bool:
            record = await known(trio, "agent-2")
            return bool(record["state"] == "active" and record["incarnation"] != before)

        await wait_until(is_back, 15)

        async def works() -> bool:
            handles = [await client.submit("maniple.sleep", {"seconds": 0.1}) for _ in range(12)]
            return "agent-2" in {(await handle.outcome(60)).agent for handle in handles}

        await wait_until(works, 15)


async def test_tasks_of_a_killed_agent_run_elsewhere(trio: Cluster) -> None:
    async with connect(trio.ready_info()["client_url"]) as client:
        submitted = [client.submit("test.slow", 2.0) for _ in range(24)]
        handles = await asyncio.gather(*submitted)
        victim = trio.process("agent-3")
        old = victim.pid
        await wait_until(lambda: scrape([victim]).get(IN_FLIGHT.name, 0) > 0)
        os.kill(old, signal.SIGKILL)
        results = [await handle.outcome(timeout=60) for handle in handles]
    assert {str(result.status) for result in results} == {"succeeded"}
    assert sum(result.lost for result in results) > 0
    await wait_until(lambda: victim.pid != old, 15)  # it was restarted
    await wait_until(victim.ready, 30)  # the next test finds it there


async def test_a_second_agent_of_one_id_ends_with_2_and_says_who_has_it(trio: Cluster) -> None:
    first = trio.process("agent-3")
    before = await known(trio, "agent-3")
    own = {"MANIPLE_HTTP_PORT": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment = {**os.environ, **first.child.spec.env, **own}
    second = await asyncio.create_subprocess_exec(
        *first.child.spec.argv,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await second.communicate()
    assert second.returncode == 2, output.decode()
    assert f"with pid {first.pid}" in output.decode()
    assert (await known(trio, "agent-3"))["incarnation"] == before["incarnation"]
