"""A channel to a broker that answers at once, and records the calls."""

import asyncio
from typing import Any


class Channel:
    """Records the calls; the end of a subscription is confirmed at once."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.on_cancelled: set[Any] = set()
        self.deliver: Any = None

    async def basic_qos(self, *, prefetch_count: int) -> None:
        self.told.append(f"qos {prefetch_count}")

    async def basic_consume(self, queue: str, deliver: Any, **_: Any) -> str:  # noqa: ARG002
        self.told.append("consume")
        self.deliver = deliver
        return "tag"

    async def basic_cancel(self, _tag: str) -> None:
        self.told.append("cancel")

    def basic_ack(self, tag: int, *, multiple: bool = False) -> None:
        self.told.append(f"ack {tag}{' and before' if multiple else ''}")


async def until_idle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
