"""A queue whose broker sends at once all that a prefetch allows, and remembers what it sent."""

import asyncio
from collections import deque
from typing import Any

from channels import Channel
from maniple.amqp.wire.properties import Properties
from maniple.amqp.wire.requests import Message


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

    async def channel(self, **_: Any) -> "SendingQueue":
        return self

    async def publish(self, *bodies: bytes) -> None:
        self.ready.extend(bodies)
        self._send()

    async def basic_qos(self, *, prefetch_count: int) -> None:
        self.prefetch = prefetch_count
        self.prefetches.append(prefetch_count)

    async def basic_consume(self, queue: str, deliver: Any, **more: Any) -> Any:
        told = await super().basic_consume(queue, deliver, **more)
        self._consumed = True
        asyncio.get_running_loop().call_soon(self._send)
        return told

    async def basic_cancel(self, _tag: str) -> None:
        self._consumed = False

    def basic_ack(self, tag: int, *, multiple: bool = False) -> None:
        for one in [t for t in self.unacked if t == tag or (multiple and t < tag)]:
            del self.unacked[one]
        self._send()

    def basic_reject(self, tag: int, *, requeue: bool) -> None:
        assert not requeue
        self.basic_ack(tag)

    def _send(self) -> None:
        while self._consumed and self.ready and len(self.unacked) < self.prefetch:
            self._tag += 1
            body = self.unacked[self._tag] = self.ready.popleft()
            properties = Properties(message_id=f"m{self._tag}")
            self.deliver(Message(self._tag, False, "", "text.stats", properties, body))
