"""`maniple agent drain`."""

import asyncio
import json
import sys

from dying import mortal
from ending import launched
from maniple import connect
from maniple_cli.dev_cluster.cluster import Cluster
from waiting import wait_until


async def maniple(url: str, *arguments: str) -> tuple[int, str, str]:
    running = launched(
        sys.executable,
        *("-c", "from maniple_cli.main import main; main()", *arguments, "--broker-url", url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with running as process:
        out, err = await process.communicate()
        return await process.wait(), out.decode(), err.decode()


async def test_a_drained_agent_leaves_and_no_task_is_lost_with_it(trio: Cluster) -> None:
    operator, leaving = trio.ready_info()["operator_url"], trio.process("agent-1")
    async with connect(trio.ready_info()["client_url"]) as client, mortal(leaving):
        handles = [await client.submit("test.slow", 0.3) for _ in range(100)]
        code, out, err = await maniple(operator, "agent", "drain", "agent-1", "--json")
        assert (code, json.loads(out), err) == (0, {"agent": "agent-1", "state": "left"}, "")
        # It says goodbye before its process has ended.
        await wait_until(lambda: not leaving.child.running)
        assert leaving.child.last_death is not None
        assert leaving.child.last_death.code == 0
        results = [await handle.result(timeout=60) for handle in handles]
        assert results == [0.3] * 100
        code, _, err = await maniple(operator, "agent", "drain", "agent-1")
        assert (code, "it has left" in err) == (1, True)
        code, _, err = await maniple(operator, "agent", "drain", "nobody")
        assert (code, "no agent 'nobody'" in err) == (1, True)
