"""A queue whose broker sends at once all that a prefetch allows, and remembers what it sent."""

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

from pamqp import commands

from channels import Channel


class SendingQueue(Channel):
    """One queue with its channel, which is its connection, too.

    Messages are sent before the consumer can react: a whole prefetch is under way at once.
    """

    def __init__(self, *bodies: bytes) -> None:
        super().__init__()
        self.ready = deque(bodies)
        self.unacked: dict[int, bytes] = {}
        self.prefetch = 0
        self.prefetches: list[int] = []
        """Of each subscription."""
        self._consumed = False
        self._tag = 0
        self._sending: set[asyncio.Task[None]] = set()

    async def channel(self, **_: Any) -> "SendingQueue":
        return self

    async def publish(self, *bodies: bytes) -> None:
        self.ready.extend(bodies)
        await self._send()

    async def basic_qos(self, *, prefetch_count: int) -> None:
        self.prefetch = prefetch_count
        self.prefetches.append(prefetch_count)

    async def basic_consume(self, queue: str, deliver: Any, **more: Any) -> Any:
        told = await super().basic_consume(queue, deliver, **more)
        self._consumed = True
        sending = asyncio.create_task(self._send())
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
        return told

    async def basic_cancel(self, _tag: str) -> None:
        self._consumed = False

    async def basic_ack(self, tag: int, *, multiple: bool = False) -> None:
        for one in [t for t in self.unacked if t == tag or (multiple and t < tag)]:
            del self.unacked[one]
        await self._send()

    async def basic_reject(self, tag: int, *, requeue: bool) -> None:
        assert not requeue
        await self.basic_ack(tag)

    async def _send(self) -> None:
        while self._consumed and self.ready and len(self.unacked) < self.prefetch:
            self._tag += 1
            body = self.unacked[self._tag] = self.ready.popleft()
            frame = commands.Basic.Deliver("tag", self._tag, False, "", "text.stats")
            properties = commands.Basic.Properties(message_id=f"m{self._tag}")
            header = SimpleNamespace(properties=properties)
            await self.deliver(SimpleNamespace(delivery=frame, header=header, body=body))
