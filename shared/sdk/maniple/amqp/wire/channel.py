"""One channel: requests in order, publishes with confirms, deliveries to consumers."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeVar

from pamqp import commands
from pamqp.base import Frame

from maniple.amqp.wire import framing
from maniple.amqp.wire.errors import (
    AmqpError,
    ChannelLost,
    ProtocolError,
    PublishFailed,
    PublishReturned,
    channel_closed,
)
from maniple.amqp.wire.properties import Properties, read_properties

if TYPE_CHECKING:
    from maniple.amqp.wire.connection import Connection

GIVEN_UP = 504  # CHANNEL_ERROR: we close a channel because nobody waits for its next answer
REMEMBERED = 1024  # exchanges and routing keys whose publish is kept as it goes out

F = TypeVar("F", bound=Frame)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Message:
    """One message as the broker delivered it."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Properties
    body: bytes


class Channel:
    """One channel of a connection; `Connection.channel` opens it.

    Every request raises `ChannelLost` or `ConnectionLost` once the channel is gone, also while it
    waits. A request whose caller is cancelled closes the channel: its answer could be of any kind,
    at any time. What is delivered is handed on within the loop's turn in which it has arrived.
    """

    def __init__(self, connection: "Connection", number: int) -> None:
        """Own this number on a connection."""
        self._connection = connection
        self.number = number
        self.closing: asyncio.Future[None] = connection.loop.create_future()
        """Done when the channel is gone; its exception tells why."""
        self.on_cancelled: set[Callable[[], object]] = set()
        """Called when the broker has ended a consumer: its queue is gone, or moved."""
        self._flows = True
        self._close_sent = False
        self._requests: deque[tuple[Frame, asyncio.Future[Any]]] = deque()
        self._consumers: dict[str, Callable[[Message], None]] = {}
        self._consumed = 0
        # A message that has not come whole: its method, then what its header said.
        self._method: bytes | Frame | None = None
        self._properties: Properties | None = None
        self._missing = 0
        self._parts: list[bytes] = []
        self._published = 0
        # In order of sending: the future of each confirm, and the message's id.
        self._confirms: dict[int, tuple[asyncio.Future[None], str | None]] = {}
        self._heads: dict[tuple[str, str, bool], bytes] = {}

    @property
    def is_closed(self) -> bool:
        """Whether it is gone, or we have asked for that."""
        return self._close_sent or self.closing.done()

    # ---- requests

    async def request(self, method: Frame, *, answer: type[F]) -> F:
        """Send a method and return what the broker answers, which is an `answer`."""
        self._must_be_open()
        waiting: asyncio.Future[F] = self._connection.loop.create_future()
        self._connection.send(framing.method_frame(self.number, method))
        self._requests.append((method, waiting))
        try:
            found = await waiting
        except asyncio.CancelledError:
            if waiting.cancelled():
                self.abandon()
            raise
        if not isinstance(found, answer):
            raise ProtocolError(f"{found.name} answers {method.name}")
        return found

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
        deliver: Callable[[Message], None],
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
        self._must_be_open()
        method = commands.Basic.Get(queue=queue)
        waiting: asyncio.Future[Message | None] = self._connection.loop.create_future()
        self._connection.send(framing.method_frame(self.number, method))
        self._requests.append((method, waiting))
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.cancelled():
                self.abandon()
            raise

    async def close(self) -> None:
        """Close the channel and return when the broker has; idempotent."""
        if self.closing.done():
            return
        if not self._close_sent:
            self._send_close(200, "")
        await asyncio.wait([self.closing])

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

    # ---- publishing and settling

    async def basic_publish(
        self,
        body: bytes,
        *,
        exchange: str,
        routing_key: str,
        properties: Properties,
        mandatory: bool = False,
    ) -> None:
        """Publish with confirm: return when the broker has taken the message over.

        Raises `PublishReturned` if it is `mandatory` and nothing is bound, `PublishFailed` when a
        queue refuses it. While the peer reads nothing (`Connection.writable`) this waits before it
        sends.
        """
        while not (self._flows and self._connection.writable):
            self._must_be_open()
            await self._connection.wait_writable(self)
        await self.publish(
            body,
            exchange=exchange,
            routing_key=routing_key,
            properties=properties,
            mandatory=mandatory,
        )

    def publish(
        self,
        body: bytes,
        *,
        exchange: str,
        routing_key: str,
        properties: Properties,
        mandatory: bool = False,
    ) -> asyncio.Future[None]:
        """Publish at once, and return a future of the confirm; see `basic_publish`."""
        self._must_be_open()
        connection = self._connection
        content = framing.content_frames(
            self.number, properties.to_bytes(), body, connection.frame_max
        )
        head = self._heads.get((exchange, routing_key, mandatory))
        if head is None:
            head = framing.publish_frame(self.number, exchange, routing_key, mandatory=mandatory)
            if len(self._heads) >= REMEMBERED:
                self._heads.clear()
            self._heads[exchange, routing_key, mandatory] = head
        connection.send(head)
        connection.send(content)
        self._published = number = self._published + 1
        confirm: asyncio.Future[None] = connection.loop.create_future()
        self._confirms[number] = confirm, properties.message_id
        return confirm

    def basic_ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery, or all up to it; sent at the end of the loop's turn."""
        self._must_be_open()
        self._connection.send(framing.ack_frame(self.number, tag, multiple=multiple))

    def basic_reject(self, tag: int, *, requeue: bool) -> None:
        """Refuse a delivery; sent at the end of the loop's turn."""
        self._must_be_open()
        self._connection.send(framing.reject_frame(self.number, tag, requeue=requeue))

    # ---- what the broker sends

    def receive(self, kind: int, payload: bytes) -> None:
        """Take a frame of the broker. Raises `ProtocolError` for one that may not come now."""
        if self._method is not None:
            self._receive_content(kind, payload)
            return
        if kind != framing.METHOD:
            raise ProtocolError("the content of a message comes without its method")
        number = framing.method_number(payload)
        if number == framing.DELIVER:
            self._method = payload
        elif number in (framing.ACK, framing.NACK):
            self._on_confirm(number, payload)
        else:
            self._on_method(framing.read_method(payload)[1])

    def lost(self, error: AmqpError) -> None:
        """End everything that waits here: the channel is gone."""
        if self.closing.done():
            return
        self.closing.set_exception(error)
        self.closing.exception()  # who wants to know has a callback
        waiting = [future for _, future in self._requests]
        waiting += [confirm for confirm, _ in self._confirms.values()]
        self._requests.clear()
        self._confirms.clear()
        self._consumers.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # the caller may have been cancelled meanwhile
        self._connection.wake_writers()

    def _receive_content(self, kind: int, payload: bytes) -> None:
        properties = self._properties
        if properties is None:
            if kind != framing.HEADER:
                raise ProtocolError("a message's method comes without its header")
            self._missing, data = framing.read_header(payload)
            self._properties = properties = read_properties(data)
        else:
            if kind != framing.BODY or len(payload) > self._missing:
                raise ProtocolError("a message's body is not as long as its header said")
            self._missing -= len(payload)
            self._parts.append(payload)
        if self._missing:
            return
        method, parts = self._method, self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._method, self._properties, self._parts = None, None, []
        if self._close_sent:
            return  # it is the queue's again
        if isinstance(method, bytes):
            self._on_delivery(method, properties, body)
        elif isinstance(method, commands.Basic.Return):
            self._on_return(method, properties)
        elif isinstance(method, commands.Basic.GetOk):
            self._answer(method, _got(method, properties, body))

    def _on_delivery(self, method: bytes, properties: Properties, body: bytes) -> None:
        consumer, tag, redelivered, exchange, key = framing.read_deliver(method)
        deliver = self._consumers.get(consumer)
        if deliver is None:  # nobody could settle it: so it is the queue's again
            self.abandon()
            return
        try:
            deliver(Message(tag, redelivered, exchange, key, properties, body))
        except Exception:  # noqa: BLE001 - one message must not cost the connection
            _log.exception("a delivery was not handled")

    def _on_confirm(self, number: int, payload: bytes) -> None:
        tag, multiple = framing.read_confirm(payload)
        confirms = self._confirms
        if not multiple:
            if tag in confirms:
                _settle(confirms.pop(tag)[0], number)
            return
        # All at once: to look for the first anew after each is quadratic, in a dict.
        for known in list(takewhile(lambda known: not tag or known <= tag, confirms)):
            _settle(confirms.pop(known)[0], number)

    def _on_return(self, returned: commands.Basic.Return, properties: Properties) -> None:
        """Tell who published: the confirm that follows would say that all is well."""
        for tag, (confirm, message_id) in self._confirms.items():
            if message_id == properties.message_id:
                del self._confirms[tag]  # given up or not: the next of that id is another publish
                if not confirm.done():
                    place = f"{returned.exchange}/{returned.routing_key}"
                    confirm.set_exception(PublishReturned(f"{returned.reply_text}: {place}"))
                return

    def _on_method(self, method: Frame) -> None:
        match method:
            case commands.Channel.Close():
                self._on_close(method)
            case commands.Channel.CloseOk():
                self._connection.free(self.number)
                self.lost(ChannelLost("closed"))
            case commands.Basic.GetOk() | commands.Basic.Return():
                self._method = method  # also while we close: its content follows
            case _ if self._close_sent:
                pass
            case commands.Basic.Cancel():
                self._on_cancel(method)
            case commands.Channel.Flow():
                self._flows = bool(method.active)
                answer = commands.Channel.FlowOk(active=self._flows)
                self._connection.send(framing.method_frame(self.number, answer))
                self._connection.wake_writers()
            case commands.Basic.GetEmpty():
                self._answer(method, None)
            case _:
                self._answer(method, method)

    def _answer(self, method: Frame, value: object) -> None:
        if not self._requests or method.name not in self._requests[0][0].valid_responses:
            raise ProtocolError(f"{method.name} comes, which answers nothing")
        _, waiting = self._requests.popleft()
        if not waiting.done():
            waiting.set_result(value)

    def _on_close(self, close: commands.Channel.Close) -> None:
        self._connection.send(framing.method_frame(self.number, commands.Channel.CloseOk()))
        if not self._close_sent:  # else the number is ours until the broker answers us, too
            self._connection.free(self.number)
        self.lost(channel_closed(close.reply_code or 0, str(close.reply_text)))

    def _on_cancel(self, cancel: commands.Basic.Cancel) -> None:
        known = self._consumers.pop(str(cancel.consumer_tag), None)
        if known is not None and self._connection.answers_cancels:
            answer = commands.Basic.CancelOk(consumer_tag=cancel.consumer_tag)
            self._connection.send(framing.method_frame(self.number, answer))
        for callback in list(self.on_cancelled):
            try:
                callback()
            except Exception:  # noqa: BLE001 - the reader of the connection must go on
                _log.exception("a cancelled consumer was not told of")


def _settle(confirm: asyncio.Future[None], number: int) -> None:
    if confirm.done():  # no longer waited for
        return
    if number == framing.ACK:
        confirm.set_result(None)
    else:
        confirm.set_exception(PublishFailed("the queue refused the message"))


def _got(method: commands.Basic.GetOk, properties: Properties, body: bytes) -> Message:
    return Message(
        int(method.delivery_tag or 0),
        bool(method.redelivered),
        str(method.exchange or ""),
        str(method.routing_key or ""),
        properties,
        body,
    )
