"""Bytes through the broker's sockets, as it counts them for each connection.

`rabbitmqctl list_connections` asks every connection's process for its socket's counters at that
moment, so nothing waits for the five seconds after which the management API would show them. All
connections count, those of heartbeats too. What the broker received is called the bytes *through*
it: each byte once, on its way in; what it sent is told beside that.
"""

import asyncio
import os
from dataclasses import dataclass

from maniple_cli.dev_cluster import programs
from maniple_cli.dev_cluster.cluster import Cluster


@dataclass(frozen=True)
class Traffic:
    """Bytes that the broker has received and sent."""

    received: float
    sent: float

    def since(self, before: "Traffic", tasks: int) -> dict[str, float]:
        """Return bytes a task since an earlier reading."""
        return {
            "received": round((self.received - before.received) / tasks, 1),
            "sent": round((self.sent - before.sent) / tasks, 1),
        }


def parse(listing: str) -> Traffic:
    """Add up lines of `received<tab>sent`; others are headings."""
    rows = [line.split("\t") for line in listing.splitlines()]
    counts = [(int(row[0]), int(row[1])) for row in rows if len(row) > 1 and row[0].isdigit()]
    return Traffic(sum(one for one, _ in counts), sum(other for _, other in counts))


async def control(cluster: Cluster, *arguments: str) -> str:
    """Run `rabbitmqctl` for the cluster's own broker; return what it says. About 2 s."""
    broker = next(child for child in cluster.servers.children if child.spec.name == "rabbitmq")
    process = await asyncio.create_subprocess_exec(
        str(programs.rabbitmq_server().with_name("rabbitmqctl")),
        "--quiet",
        *arguments,
        env={**os.environ, **broker.spec.env},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"rabbitmqctl {arguments[0]} failed")
    return said.decode()


async def traffic(cluster: Cluster) -> Traffic:
    """Return what has gone over all open connections so far."""
    return parse(await control(cluster, "list_connections", "recv_oct", "send_oct"))
