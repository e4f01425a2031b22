"""A cluster of two dispatchers for tests of policies, and how to change them."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maniple import Client, connect
from maniple.messages import Result
from maniple_cli.control import ask_over, operator_plane
from maniple_cli.dev_cluster.cluster import Cluster, ClusterOptions
from maniple_cli.dev_cluster.http import fetch
from maniple_cli.dev_cluster.servers import BrokerServer
from maniple_runtime.control.plane import ControlPlane
from paths import PYTHONPATH
from policy_handlers import BROKEN_VARIABLE
from waiting import wait_until


@dataclass(frozen=True)
class World:
    """A cluster with a client and an operator; `broken` is the file that breaks `work.fragile`."""

    cluster: Cluster
    client: Client
    plane: ControlPlane
    broken: Path

    async def apply(self, kind: str, name: str, spec: dict[str, Any], **more: Any) -> int:
        """Put a policy into force in all dispatchers, and return its version."""
        document = {"kind": kind, "name": name, "spec": spec, **more}
        answer = await ask_over(self.plane, "policy", "policy.apply", {"document": document})
        version = int(answer["policy"]["version"])
        await self._until(f"{kind}/{name}", version)
        return version

    async def delete(self, kind: str, name: str) -> None:
        """Delete a policy in all dispatchers."""
        await ask_over(self.plane, "policy", "policy.delete", {"kind": kind, "name": name})
        await self._until(f"{kind}/{name}", None)

    @asynccontextmanager
    async def policy(
        self, kind: str, name: str, spec: dict[str, Any], **more: Any
    ) -> AsyncIterator[int]:
        """Put a policy in force for the block; yields its version."""
        version = await self.apply(kind, name, spec, **more)
        try:
            yield version
        finally:
            await self.delete(kind, name)

    async def _until(self, key: str, version: int | None) -> None:
        async def everywhere() -> bool:
            urls = [process.http for process in self.cluster.of_service("dispatcher")]
            answers = [await fetch(f"{url}/health") for url in urls]
            # One that is starting does not answer yet.
            return all(
                status and body and json.loads(body)["versions"].get(key) == version
                for status, body in answers
            )

        await wait_until(everywhere)

    async def ends(self, capability: str, payloads: Iterable[Any], **options: Any) -> list[Result]:
        """Submit tasks and return how they ended."""
        submitted = [self.client.submit(capability, payload, **options) for payload in payloads]
        handles = await asyncio.gather(*submitted)
        return [await handle.outcome(timeout=60) for handle in handles]


@asynccontextmanager
async def policy_world(
    folder: Path, broker: BrokerServer | None = None, *, time_scale: float | None = None
) -> AsyncIterator[World]:
    """Start one, on a broker of its own if none is given; raises `ServerMissing`."""
    broken = folder / "broken"
    agents = {
        "PYTHONPATH": PYTHONPATH,
        "MANIPLE_VARIANTS": "canary,lite,shadow",
        BROKEN_VARIABLE: str(broken),
    }
    options = ClusterOptions(
        agents=2,
        dispatchers=2,
        handlers=("policy_handlers",),
        env={"agent": agents},
        time_scale=time_scale,
    )
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(Cluster(options, broker=broker))
        info = cluster.ready_info()
        client = await stack.enter_async_context(connect(info["client_url"]))
        plane = await stack.enter_async_context(operator_plane(info["operator_url"]))
        yield World(cluster, client, plane, broken)


def codes(results: Iterable[Result]) -> Counter[str]:
    """Count results by their error code, or by their status if there is none."""
    return Counter(str(r.error.code) if r.error else str(r.status) for r in results)


def most_at_once(results: Iterable[Result]) -> int:
    """Return the largest number of them that ran at the same time."""
    moments: list[tuple[Any, int]] = []
    for result in results:
        if result.started_at and result.finished_at:
            moments += [(result.started_at, 1), (result.finished_at, -1)]
    running = most = 0
    for _, change in sorted(moments, key=lambda moment: (moment[0], moment[1])):
        running += change
        most = max(most, running)
    return most
