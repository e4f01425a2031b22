"""The published bound of a change of policy: it reaches every process in under a second."""

import time
from pathlib import Path

from consul_server import ConsulServer as OwnConsul
from local_servers import LocalServers
from maniple_runtime.process import running
from maniple_runtime.settings import ServiceSettings
from policy_services import Follower, asking, policy_service
from waiting import wait_until

BOUND = 1.0
CHANGES = 5


async def test_a_change_of_policy_reaches_a_process_within_a_second(
    servers: LocalServers, consul: OwnConsul, tmp_path: Path
) -> None:
    """What the machine takes for a question and its answer on the same way is not counted."""
    settings = ServiceSettings(
        broker_url=servers.rabbitmq.url("agent"), consul_url=consul.url, data_dir=tmp_path / "f"
    )
    follower = Follower()
    async with (
        policy_service(servers.rabbitmq, consul, tmp_path / "p"),
        asking(servers.rabbitmq) as operator,
        running(settings, follower.build),
    ):

        async def asked() -> float:
            begun = time.monotonic()
            await operator.ask("list")
            return time.monotonic() - begun

        async def has(value: float) -> float:
            applied = time.monotonic()
            await wait_until(lambda: follower.view.resolve("t.x", "t", {}).timeout == value, 20)
            return time.monotonic() - applied

        for number in range(1, CHANGES + 1):
            before = await asked()
            await operator.apply("t", float(number))
            took = await has(float(number))
            way = max(before, await asked())
            assert took - way < BOUND, (number, took, way)
