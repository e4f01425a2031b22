"""A policy service whose Consul may be killed, for the modules about it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consul_server import ConsulServer as OwnConsul
from local_servers import LocalServers
from policy_services import Operator, asking, policy_service


@pytest.fixture
async def operator(
    servers: LocalServers, consul: OwnConsul, tmp_path: Path
) -> AsyncIterator[Operator]:
    """A running policy service, and who asks it."""
    async with (
        policy_service(servers.rabbitmq, consul, tmp_path / "one"),
        asking(servers.rabbitmq) as operator,
    ):
        yield operator
