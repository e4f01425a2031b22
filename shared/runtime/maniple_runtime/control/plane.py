"""The control plane of a process: heartbeats, events, commands, requests.

Messages of the hot path go over `maniple.amqp` instead.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from structlog.typing import FilteringBoundLogger

from maniple.errors import BrokerUnavailable, PublishRefused
from maniple.identifiers import new_id
from maniple.timings import Amqp
from maniple.topology import (
    CONTROL,
    EVENTS,
    HEARTBEATS,
    Exchange,
    request_queue,
)
from maniple_runtime.control.amqp_messages import IncomingMessage, OutgoingMessage
from maniple_runtime.control.connection import ControlConnection, prepare_broker
from maniple_runtime.control.dispatch import ControlDispatch, Handler, M
from maniple_runtime.control.messages import Command, ControlMessage, Heartbeat, Response
from maniple_runtime.control.request_client import RequestClient
from maniple_runtime.control.requests import Responder, answer, may_answer
from maniple_runtime.events import Event
from maniple_runtime.health import Health
from maniple_runtime.metric_names import PUBLISHING_BLOCKED, RECONNECTS
from maniple_runtime.telemetry import Metrics

PUBLISH_TIMEOUT = 5.0
LEAST_PATIENCE = 5.0
REQUEST_TIMEOUT = 5.0
DRAIN_TIMEOUT = 2.0
PRIVATE_PREFIX = "maniple.private."
COMPONENT = "control plane"
QUEUES = "control plane queues"
BLOCKED = "held back by RabbitMQ: memory or disk alarm"
_DEFAULT_EXCHANGE = Exchange("", "direct")

__all__ = ["ControlPlane", "prepare_broker"]


class ControlPlane:
    """Subscriptions, requests and confirmed publishes over one connection that repairs itself.

    `name` is the connection's name as the broker shows it. With `health`, the required component
    `control plane` says whether the connection stands; `metrics` count reconnections and dropped
    messages. Entering raises `BrokerUnavailable` after
    `patience` seconds (at once for wrong credentials). Known weakness: while the connection is
    away, what is published for its exclusive queues is lost, as for any listener not there.
    """

    def __init__(  # noqa: PLR0913 - what a connection is told, and whom it tells
        self,
        url: str,
        *,
        name: str,
        log: FilteringBoundLogger,
        health: Health | None = None,
        patience: float = 10.0,
        times: Amqp | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        metrics = metrics or Metrics()
        # Prometheus sees a counter rise only from a value that was there before.
        metrics.counter(RECONNECTS, "control")
        metrics.gauge(PUBLISHING_BLOCKED, "control")
        self._metrics = metrics
        self.name = name
        self.reconnects = 0
        self._log = log
        self._health = health
        self._patience = patience
        self._inbox = ControlDispatch(log, metrics)
        self._connection = ControlConnection(
            url,
            name=name,
            on_state=self._on_state,
            on_blocked=self._on_blocked,
            on_silent=self._on_silent,
            times=times,
        )
        self._requests = RequestClient(self._connection, self._inbox, name)
        self._opened = False

    async def __aenter__(self) -> Self:
        """Connect; raises `BrokerUnavailable`."""
        await self._connection.start(max(self._patience, LEAST_PATIENCE))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop consuming, let handlers finish for `DRAIN_TIMEOUT` seconds, close."""
        await self._connection.stop_consuming()
        await self._inbox.finish_handlers(DRAIN_TIMEOUT)
        self._requests.fail_waiting("the connection was closed")
        await self._connection.close()

    @property
    def connected(self) -> bool:
        """Whether the connection is up and all queues are consumed on it."""
        return self._connection.is_up

    @property
    def connections(self) -> tuple[str, ...]:
        """Names of its connections, for the heartbeat."""
        return (self.name,)

    async def wait_connected(self) -> None:
        """Return as soon as the connection is up."""
        await self._connection.wait_up()

    @property
    def blocked(self) -> bool:
        """Whether a broker alarm (memory, disk) holds back what is published."""
        return self._connection.blocked

    def reconnect(self) -> None:
        """Rebuild the connection."""
        self._connection.suspect()

    def _on_state(self, up: bool) -> None:  # noqa: FBT001 - a callback's one argument
        if up and self._opened:
            self.reconnects += 1
            self._metrics.counter(RECONNECTS, "control").inc()
            self._log.info("control plane reconnected", connection=self.name)
        if not up:
            self._log.warning("control plane lost its connection", connection=self.name)
            self._requests.fail_waiting("the connection was lost")
        self._opened = True
        if self._health is not None:
            detail = "" if up else "no connection to RabbitMQ"
            self._health.set(COMPONENT, ok=up, detail=detail, required=True)

    def _on_blocked(self, blocked: bool) -> None:  # noqa: FBT001 - as above
        self._metrics.gauge(PUBLISHING_BLOCKED, "control").set(blocked)
        if self._health is not None:
            detail = BLOCKED if blocked else ""
            self._health.set(f"{COMPONENT} publishing", ok=not blocked, detail=detail)

    def _on_silent(self, queues: frozenset[str]) -> None:
        if queues:
            self._log.warning("queues are not consumed", queues=sorted(queues))
        if self._health is not None:
            detail = f"do not answer: {', '.join(sorted(queues))}" if queues else ""
            self._health.set(QUEUES, ok=not queues, detail=detail)

    async def subscribe(
        self,
        exchange: Exchange,
        keys: Sequence[str],
        model: type[M] | tuple[type[M], ...],
        handler: Handler[M],
    ) -> None:
        """Pass each message of these types on `exchange` to `handler`, from now on.

        They arrive on an exclusive queue of this process, bound by `keys`. Other types are ignored
        (they may be newer than this release); messages that cannot be decoded, and errors of the
        handler, are logged and counted. Handlers start in order of arrival; asynchronous ones
        overlap (up to 200) and keep running when the connection is lost. Raises
        `BrokerUnavailable`.
        """
        models = model if isinstance(model, tuple) else (model,)
        purpose = f"{PRIVATE_PREFIX}{self.name}.{exchange.name.removeprefix('maniple.')}"
        receive = self._inbox.receiver(models, handler)
        await self._connection.listen(purpose, receive, exchange, keys)

    async def respond(self, service: str, operations: Mapping[str, Responder]) -> None:
        """Answer requests to `service`, competing with its other replicas.

        An operation returns a JSON object or a model; a `RequestFailed` that it raises becomes the
        answer, any other error the code `internal`. A request that changes something may arrive
        again, here or at another replica, see `Asked`. While the queue of requests does not answer,
        nothing else is held up, and health shows it. Raises `BrokerUnavailable`.
        """

        async def receive(arrival: IncomingMessage) -> None:
            await self._inbox.owned(self._answer(arrival, operations))

        await self._connection.serve(request_queue(service).name, receive)

    async def _answer(self, arrival: IncomingMessage, operations: Mapping[str, Responder]) -> None:
        reply_to = arrival.reply_to
        if not reply_to or not may_answer(reply_to):
            self._log.warning("request without a place for its answer", reply_to=reply_to)
            return
        message = OutgoingMessage(
            exchange=_DEFAULT_EXCHANGE,
            key=reply_to,
            body=await answer(operations, arrival, self._log),
            type=Response.TYPE,
            message_id=new_id(),
            correlation_id=arrival.correlation_id,
        )
        try:
            await self._connection.send_message(message, PUBLISH_TIMEOUT)
        except (BrokerUnavailable, PublishRefused) as error:
            self._log.info("answer not delivered", reply_to=reply_to, reason=str(error))

    async def is_served(self, queue: str, timeout: float = REQUEST_TIMEOUT) -> bool:
        """Tell whether a queue has a consumer now. Raises `BrokerUnavailable`."""
        return await self._connection.consumers(queue, timeout) > 0

    async def request(
        self,
        service: str,
        op: str,
        body: Mapping[str, Any] | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> dict[str, Any]:
        """Ask a service and return the body of its answer; requests may overlap.

        Raises `RequestFailed` (with the service's code), `RequestTimeout`, `BrokerUnavailable`, and
        `PublishRefused` if there is no such service.
        """
        return await self._requests.ask_service(service, op, body or {}, timeout)

    async def emit(self, event: Event, timeout: float = PUBLISH_TIMEOUT) -> None:
        """Publish an event under its own id; returns when it is stored in `maniple.records`.

        Raises as `publish` does.
        """
        await self._connection.send_message(_outgoing(EVENTS, event.KEY, event, event.id), timeout)

    async def command(self, key: str, command: Command, timeout: float = PUBLISH_TIMEOUT) -> bool:
        """Publish a command; False if no agent is bound to `key`."""
        try:
            await self.publish(CONTROL, key, command, timeout)
        except PublishRefused as error:
            if error.unroutable:
                return False
            raise
        return True

    async def heartbeat(self, heartbeat: Heartbeat, timeout: float = PUBLISH_TIMEOUT) -> None:
        """Publish a heartbeat; returns when the broker has confirmed it.

        It is confirmed even when no registry consumes it: that is not the agent's fault.
        """
        message = _outgoing(HEARTBEATS, "", heartbeat, new_id(), mandatory=False)
        await self._connection.send_message(message, timeout)

    async def publish(
        self,
        exchange: Exchange,
        key: str,
        message: ControlMessage,
        timeout: float = PUBLISH_TIMEOUT,
    ) -> None:
        """Publish persistently and wait for the broker's confirm.

        Raises `PublishRefused` (also when nothing is bound) and `BrokerUnavailable`, after which
        the message may or may not have arrived.
        """
        await self._connection.send_message(_outgoing(exchange, key, message, new_id()), timeout)


def _outgoing(
    exchange: Exchange,
    key: str,
    message: ControlMessage,
    message_id: str,
    *,
    mandatory: bool = True,
) -> OutgoingMessage:
    return OutgoingMessage(
        exchange=exchange,
        key=key,
        body=message.to_json(),
        type=message.TYPE,
        message_id=message_id,
        mandatory=mandatory,
    )
