"""Carrying tasks over RabbitMQ, and their results back."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from maniple import codec
from maniple.amqp import AmqpConnection, Delivery, Outgoing, Publisher
from maniple.amqp.batching import Bundler
from maniple.amqp.reply_consumer import ReplyConsumer
from maniple.client.core import Client
from maniple.client.handle import OutstandingHandles, Ticket
from maniple.client.submission import SubmitSpans
from maniple.clusters import default_broker_url
from maniple.errors import BrokerUnavailable, ConfigurationError, InvalidMessage, ManipleError
from maniple.identifiers import new_id
from maniple.messages import (
    PROGRESS_TYPE,
    REPEATED_HEADER,
    RESULT_TYPE,
    TASK_TYPE,
    Progress,
    Result,
)
from maniple.topology import BATCH_KEY, TASKS
from maniple.urls import check_broker_url

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

CONNECT_TIMEOUT = 10.0
CONFIRM_TIMEOUT = 60.0
CLOSE_TIMEOUT = 10.0
BUNDLE_TASKS = 256
SPACING = 0.004  # seconds between bundles that are not full, at the most
PREFETCH = 64
REPEATED = {REPEATED_HEADER: "true"}
RESULTS_OF_ANY_KIND = "maniple.result"
"""How the types of messages with results begin: of one, of many, and of later versions."""

_log = logging.getLogger(__name__)


def _without_capability(bodies: list[bytes], capability: str) -> list[bytes]:
    """Return tasks without the capability that their routing key says; see `Task`."""
    said = b'{"capability":%b,' % codec.encode(capability)
    if capability == BATCH_KEY or not all(body.startswith(said) for body in bodies):
        return bodies
    return [b"{" + body[len(said) :] for body in bodies]


@contextlib.asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    tenant: str = "default",
    timeout: float = CONNECT_TIMEOUT,
    confirm_timeout: float | None = CONFIRM_TIMEOUT,
    tracer: "Tracer | None" = None,
) -> AsyncIterator[Client]:
    """Connect to RabbitMQ and give a client; at the end, send what waits and disconnect.

    `url` defaults to MANIPLE_BROKER_URL, then to the cluster that `maniple dev` runs here. Raises
    `ConfigurationError` without any of these and for what is no URL, `BrokerUnavailable` after
    `timeout` seconds, and at once `BrokerRefused` if RabbitMQ refuses the login, the vhost or TLS.
    A lost connection is built anew; submissions then wait up to `confirm_timeout` seconds.

    A submission made within an OpenTelemetry span has a span of its own there and continues its
    trace; with a `tracer` each has one, made by that.

    Results come to a durable queue of the client's own, which outlives a lost connection for five
    minutes. A user who may not declare that one (an outside user) gets an exclusive queue, which
    ends with the connection. Known weakness: when the queue is gone, so are the results of what had
    been submitted, and the handles raise `BrokerUnavailable`; the tasks themselves go on.
    """
    outstanding = OutstandingHandles()
    carrier = AmqpCarrier(_broker_url(url), outstanding, confirm_timeout)
    await carrier.connect(timeout)
    client = Client(carrier, outstanding, tenant=tenant, submitting=SubmitSpans(tracer))
    try:
        yield client
    finally:
        await client.close()


def _broker_url(given: str | None) -> str:
    url = default_broker_url() if given is None else given
    try:
        check_broker_url(url)
    except ValueError as error:
        raise ConfigurationError(f"the broker's URL: {error}") from error
    return url


class AmqpCarrier:
    """A link with a publisher for bundles of tasks and a consumer for bundles of results."""

    def __init__(
        self, url: str, outstanding: OutstandingHandles, confirm_timeout: float | None
    ) -> None:
        """Describe the connection; `connect` opens it."""
        self.client_id = new_id()
        self._outstanding = outstanding
        self._confirm_timeout = confirm_timeout
        name = f"maniple-client-{socket.gethostname()}-{os.getpid()}-{self.client_id[-6:]}"
        self._link = AmqpConnection(url, name=name, on_state=self._on_state)
        self._replies = ReplyConsumer(
            self._link, self.client_id, self._on_delivery, prefetch=PREFETCH
        )
        self._link.add_endpoint(self._replies)
        self._publisher = Publisher(self._link, tells_refusals=True)
        self._bundler = Bundler(self._start, max_items=BUNDLE_TASKS, spacing=SPACING)
        # In messages of their own: what is said of a message is said of all that is in it.
        self._repeats = Bundler(self._start, max_items=BUNDLE_TASKS)
        self._closed = False
        self._warned = False

    async def connect(self, timeout: float) -> None:
        """Connect. Raises `BrokerUnavailable` after `timeout` seconds."""
        await self._link.start(timeout)

    def send(self, ticket: Ticket) -> None:
        """Send a task soon, together with those that are sent close to it."""
        if self._closed:
            raise ManipleError("the client is closed")
        bundler = self._repeats if ticket.repeated else self._bundler
        bundler.add(ticket, len(ticket.body) + 1)

    async def close(self) -> None:
        """Send what waits, delete the reply queue, disconnect."""
        self._closed = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._bundler.drain()
                await self._repeats.drain()
                await self._replies.flush()
                await self._replies.delete()
        except TimeoutError:
            _log.warning("closing a client whose submissions RabbitMQ has not confirmed")
        finally:
            await self._link.close()

    def _start(self, bundle: list[Ticket]) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._send(bundle))

    async def _send(self, bundle: list[Ticket]) -> None:
        error: ManipleError | None = None
        life = 0

        def address() -> str:
            nonlocal life
            life = self._replies.life
            return self._replies.address

        try:
            message = self._message(bundle, address)
            await self._publisher.publish(message, timeout=self._confirm_timeout)
        except ManipleError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001 - whatever it was, the tasks must hear of it
            error = ManipleError(f"the tasks cannot be sent: {caught!r}")
        for ticket in bundle:
            ticket.life = life
            ticket.sent(error)
        if life != self._replies.life:
            self._abandon(self._replies.life)

    def _message(self, bundle: list[Ticket], address: Callable[[], str]) -> Outgoing:
        message_id = new_id()
        for ticket in bundle:
            ticket.message_id = message_id
        first = bundle[0]
        shared = all(ticket.capability == first.capability for ticket in bundle)
        bodies = [ticket.body for ticket in bundle]
        if shared:
            bodies = _without_capability(bodies, first.capability)
        return Outgoing(
            exchange=TASKS.name,
            routing_key=first.capability if shared else BATCH_KEY,
            body=bodies[0] if len(bundle) == 1 else codec.join(bodies),
            message_id=message_id,
            type=TASK_TYPE,
            correlation_id=lambda: self._replies.correlation_id,
            reply_to=address,
            headers=dict(REPEATED) if first.repeated else None,
            again=REPEATED,
        )

    def _on_delivery(self, delivery: Delivery) -> None:
        replies = self._replies
        shown = delivery.properties.correlation_id if replies.exclusive else delivery.routing_key
        if shown == replies.secret:
            self._hear(delivery)
        else:
            # Anybody may send as many as he likes: the first one is enough of a warning.
            level = logging.DEBUG if self._warned else logging.WARNING
            _log.log(level, "somebody else's result came to %s", replies.queue)
            self._warned = True
        delivery.ack()

    def _hear(self, delivery: Delivery) -> None:
        kind = delivery.properties.message_type or RESULT_TYPE
        try:
            if kind == PROGRESS_TYPE:
                reports = codec.decode_members(delivery.body, Progress)
                self._outstanding.report_all([r for r in reports if isinstance(r, Progress)])
            elif kind.startswith(RESULTS_OF_ANY_KIND):
                self._outstanding.settle_results(codec.decode_members(delivery.body, Result))
            else:  # such as that a task is accepted, which is told to plain reply queues
                _log.debug("a reply of type %s says of no task that it has ended", kind)
        except InvalidMessage as error:
            _log.warning("a reply that cannot be read: %s", error)

    def _on_state(self, up: bool) -> None:  # noqa: FBT001 - a callback's one argument
        # What is not confirmed yet is sent again, and its result comes to the next queue.
        if up:
            self._abandon(self._replies.life)
        elif self._replies.exclusive:
            self._abandon(self._replies.life + 1)

    def _abandon(self, life: int) -> None:
        """Give up tasks whose results go to a queue before this one."""
        self._outstanding.abandon_where(
            BrokerUnavailable(
                "the reply queue was lost, and with it the results of tasks submitted before"
            ),
            lambda ticket: 0 < ticket.life < life,
        )
