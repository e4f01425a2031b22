"""Faults of a running cluster's broker and network, as in production.

Everything here is asynchronous and works on a broker of `system.brokers`, passed to
`Cluster(broker=…)` as it is or as a `Reached` one. `owner` selects connections by the prefix of
their name, an instance as `agent-1` or a client as `maniple-client`; "" means all.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import quote

import requests

from flaky_network import FlakyNetwork
from maniple_cli.dev_cluster.child import Child
from rabbitmqctl import OWNED, Commanded
from system.brokers import Broker

NEVER_DELIVERED = 999_999
HTTP_SECONDS = 10.0
# In the broker's own language: the channels of the connections of an owner.
_CHANNELS = """
  Channels = [P || [{pid, P}, {connection, C}] <- rabbit_channel:info_all([pid, connection]),
                   lists:member(C, Owned)],
"""


async def restart_broker(broker: Broker, *, kill: bool = False, away: float = 0.0) -> None:
    """Stop the broker, cleanly or with SIGKILL, and start it again after `away` seconds."""
    await (broker.kill() if kill else broker.shut_down())
    await asyncio.sleep(away)
    await broker.come_back()


async def close_connections(broker: Broker, owner: str = "") -> int:
    """Close connections through the management API, as an administrator; return how many.

    It shows a connection two or three seconds after it was opened.
    """
    url = f"{await broker.administrator()}/api/connections"
    return await asyncio.to_thread(_close, url, owner)


def _close(url: str, owner: str) -> int:
    answer = requests.get(f"{url}?columns=name,user_provided_name", timeout=HTTP_SECONDS)
    answer.raise_for_status()
    names = [
        found["name"]
        for found in answer.json()
        if found.get("name") and found.get("user_provided_name", "").startswith(owner)
    ]
    answers = [
        requests.delete(f"{url}/{quote(name, safe='')}", timeout=HTTP_SECONDS) for name in names
    ]
    return sum(answer.ok for answer in answers)


async def acknowledge_wrongly(broker: Commanded, owner: str = "") -> int:
    """Acknowledge an unknown delivery on each channel (406); return how many there were."""
    return await _command(broker, owner, f"{{'basic.ack', {NEVER_DELIVERED}, false}}")


async def declare_wrongly(broker: Commanded, queue: str, owner: str = "") -> int:
    """Declare a queue with other arguments on each channel (406); return how many there were."""
    declare = f"{{'queue.declare', 0, <<\"{queue}\">>, false, true, false, false, false, []}}"
    return await _command(broker, owner, declare)


async def _command(broker: Commanded, owner: str, method: str) -> int:
    """Run a method on each channel as if its client had sent it; the broker closes the channel."""
    text = OWNED.format(owner=owner) + _CHANNELS
    text += f"[rabbit_channel:do(P, {method}) || P <- Channels], length(Channels)."
    return int(await broker.control("eval", text))


async def delete_queue(broker: Commanded, vhost: str, queue: str) -> None:
    """Delete a queue; the broker cancels its consumers."""
    await broker.control("delete_queue", "--vhost", vhost, queue)


@asynccontextmanager
async def memory_alarm(broker: Commanded) -> AsyncIterator[None]:
    """Set off the broker's memory alarm: it stops reading from publishers."""
    await broker.control("set_vm_memory_high_watermark", "0.00001")
    try:
        yield
    finally:
        await broker.control("set_vm_memory_high_watermark", "0.4")


@asynccontextmanager
async def disk_alarm(broker: Commanded) -> AsyncIterator[None]:
    """Set off the broker's disk alarm: it stops reading from publishers."""
    await broker.control("set_disk_free_limit", "1000000GB")
    try:
        yield
    finally:
        await broker.control("set_disk_free_limit", "50MB")


@asynccontextmanager
async def frozen(network: FlakyNetwork, owner: str = "") -> AsyncIterator[int]:
    """Block all traffic and close nothing: a cut that neither side is told of.

    Yields how many connections there were.
    """
    wires = network.freeze(owner)
    try:
        yield wires
    finally:
        network.thaw()


async def consumers(broker: Commanded, vhost: str) -> Counter[str]:
    """Return the number of consumers of each queue, as the queues themselves report.

    Random suffixes of private queues' names are dropped: two queues of one purpose add up.
    """
    listed = await broker.control(
        "eval",
        "[{N, length(rabbit_amqqueue:consumers(Q))} "
        f'|| Q <- rabbit_amqqueue:list(<<"{vhost}">>), '
        "{resource, _, _, N} <- [amqqueue:get_name(Q)]].",
    )
    found: Counter[str] = Counter()
    for name, count in re.findall(r'<<"([^"]+)">>,\s*(\d+)', listed):
        found[re.sub(r"(?<=^amq\.gen)-.*|\.[0-9a-f]{12}$", "", name)] += int(count)
    return found


class Reached:
    """A broker that is reached over `network`, for `Cluster(broker=…)`; enter it first."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.network = FlakyNetwork(lambda: broker.url("operator"))

    async def __aenter__(self) -> Self:
        await self.network.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.network.__aexit__()

    @property
    def environment(self) -> str:
        """Name of the environment, which is the vhost's."""
        return self.broker.environment

    @property
    def children(self) -> tuple[Child, ...]:
        """The processes that make it up."""
        return self.broker.children

    def url(self, role: str) -> str:
        """AMQP URL for a role, by way of the network."""
        return self.network.leading(self.broker.url(role))

    def management_url(self, role: str) -> str:
        """Management API with a role's login; not by way of the network."""
        return self.broker.management_url(role)

    async def start(self) -> None:
        """Start the broker."""
        await self.broker.start()

    async def stop(self, seconds: float) -> None:
        """Stop the broker."""
        await self.broker.stop(seconds)
