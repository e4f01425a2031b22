"""What a channel is asked for: requests, which the broker answers in order."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pamqp import commands
from pamqp.base import Frame

from maniple.amqp.wire import framing
from maniple.amqp.wire.amqp_errors import AmqpError, ChannelLost, ProtocolError
from maniple.amqp.wire.properties import Properties

if TYPE_CHECKING:
    from maniple.amqp.wire.broker_connection import Connection

CLOSE_TIMEOUT = 5.0
GIVEN_UP = 504  # CHANNEL_ERROR: we close a channel because nobody waits for its next answer

F = TypeVar("F", bound=Frame)


@dataclass(slots=True)
class Message:
    """One message as the broker delivered it."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Properties
    body: bytes


Deliver = Callable[[Message], None]


class Requests:
    """The requests of a channel.

    Each raises `ChannelLost` or `ConnectionLost` once the channel is gone, also while it waits. A
    request whose caller is cancelled closes the channel: its answer could be of any kind, at any
    time.
    """

    def __init__(self, connection: "Connection", number: int) -> None:
        """Own this number on a connection."""
        self._connection = connection
        self.number = number
        self.closing: asyncio.Future[None] = connection.loop.create_future()
        """Done when the channel is gone; its exception tells why."""
        self._close_sent = False
        self._requests: deque[tuple[Frame, asyncio.Future[Any]]] = deque()
        self._consumers: dict[str, Deliver] = {}
        self._consumed = 0

    @property
    def is_closed(self) -> bool:
        """Whether it is gone, or we have asked for that."""
        return self._close_sent or self.closing.done()

    async def request(self, method: Frame, *, answer: type[F]) -> F:
        """Send a method and return what the broker answers, which is an `answer`."""
        found = await self._ask(method)
        if not isinstance(found, answer):
            raise ProtocolError(f"{method.name} was answered by something else")
        return found

    async def _ask(self, method: Frame) -> object:
        self._must_be_open()
        waiting: asyncio.Future[object] = self._connection.loop.create_future()
        self._connection.send(framing.method_frame(self.number, method))
        self._requests.append((method, waiting))
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.cancelled():
                self.abandon()
            raise

    async def exchange_declare(  # noqa: PLR0913 - as AMQP has it
        self,
        exchange: str,
        *,
        exchange_type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        internal: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Declare an exchange, or see with `passive` whether it is there."""
        await self.request(
            commands.Exchange.Declare(
                exchange=exchange,
                exchange_type=exchange_type,
                passive=passive,
                durable=durable,
                internal=internal,
                arguments=arguments or {},
            ),
            answer=commands.Exchange.DeclareOk,
        )

    async def queue_declare(
        self,
        queue: str,
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> commands.Queue.DeclareOk:
        """Declare a queue, or look with `passive` at it; a queue "" is named by the broker."""
        return await self.request(
            commands.Queue.Declare(
                queue=queue,
                passive=passive,
                durable=durable,
                exclusive=exclusive,
                arguments=arguments or {},
            ),
            answer=commands.Queue.DeclareOk,
        )

    async def queue_bind(self, queue: str, exchange: str, routing_key: str = "") -> None:
        """Bind a queue to an exchange."""
        await self.request(
            commands.Queue.Bind(queue=queue, exchange=exchange, routing_key=routing_key),
            answer=commands.Queue.BindOk,
        )

    async def queue_unbind(self, queue: str, exchange: str, routing_key: str = "") -> None:
        """Undo `queue_bind`."""
        await self.request(
            commands.Queue.Unbind(queue=queue, exchange=exchange, routing_key=routing_key),
            answer=commands.Queue.UnbindOk,
        )

    async def queue_delete(self, queue: str) -> None:
        """Delete a queue with its messages."""
        await self.request(commands.Queue.Delete(queue=queue), answer=commands.Queue.DeleteOk)

    async def confirm_select(self) -> None:
        """Have every publish on this channel confirmed."""
        await self.request(commands.Confirm.Select(), answer=commands.Confirm.SelectOk)

    async def basic_qos(self, *, prefetch_count: int) -> None:
        """Limit how many messages of each further consumer may be unsettled (0: no limit)."""
        await self.request(
            commands.Basic.Qos(prefetch_count=prefetch_count), answer=commands.Basic.QosOk
        )

    async def basic_consume(
        self,
        queue: str,
        deliver: Deliver,
        *,
        no_ack: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> str:
        """Consume a queue, and return the consumer's tag; `deliver` must not raise."""
        self._consumed += 1
        tag = f"{self.number}.{self._consumed}"
        self._consumers[tag] = deliver
        try:
            await self.request(
                commands.Basic.Consume(
                    queue=queue, consumer_tag=tag, no_ack=no_ack, arguments=arguments or {}
                ),
                answer=commands.Basic.ConsumeOk,
            )
        except BaseException:
            self._consumers.pop(tag, None)
            raise
        return tag

    async def basic_cancel(self, consumer_tag: str) -> None:
        """End a consumer; what is under way to it is still delivered before this returns."""
        await self.request(
            commands.Basic.Cancel(consumer_tag=consumer_tag), answer=commands.Basic.CancelOk
        )
        self._consumers.pop(consumer_tag, None)

    async def basic_get(self, queue: str) -> Message | None:
        """Take one message; None if the queue has none."""
        found = await self._ask(commands.Basic.Get(queue=queue))
        return found if isinstance(found, Message) else None

    async def close(self) -> None:
        """Close the channel and return when the broker has, or after a while; idempotent.

        One that does not answer keeps its number until it does, or the connection ends.
        """
        if self.closing.done():
            return
        if not self._close_sent:
            self._send_close(200, "")
        await asyncio.wait([self.closing], timeout=CLOSE_TIMEOUT)

    def abandon(self) -> None:
        """Close the channel without waiting: nobody knows any more what its next answer means."""
        if not self.is_closed:
            self._send_close(GIVEN_UP, "an answer is no longer waited for")

    def _send_close(self, code: int, text: str) -> None:
        self._close_sent = True
        close = commands.Channel.Close(reply_code=code, reply_text=text, class_id=0, method_id=0)
        self._connection.send(framing.method_frame(self.number, close))

    def _must_be_open(self) -> None:
        if self.closing.done():
            raise self._reason()
        if self._close_sent:
            raise ChannelLost("the channel is being closed")

    def _reason(self) -> AmqpError:
        error = self.closing.exception() if self.closing.done() else None
        if isinstance(error, AmqpError):
            return error.with_traceback(None)
        return ChannelLost("the channel is closed")

    def _answer(self, name: str, value: object) -> None:
        if not self._requests or name not in self._requests[0][0].valid_responses:
            raise ProtocolError(f"{name} comes, which answers nothing")
        _, waiting = self._requests.popleft()
        if not waiting.done():
            waiting.set_result(value)
