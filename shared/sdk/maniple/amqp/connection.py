"""One supervised AMQP connection of the hot path, and the endpoints on it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from maniple.amqp.byte_budget import ByteBudget
from maniple.amqp.consumer import Consumer
from maniple.amqp.subscription import Prepare, Subscription
from maniple.amqp.supervision import Supervised, TooFewChannels, safely
from maniple.amqp.wire.broker_connection import Connection
from maniple.amqp.wire.channel import Channel
from maniple.errors import BrokerUnavailable
from maniple.timings import Amqp

SPARE_CHANNELS = 4  # for declarations, looks and channels that the broker has yet to close


class Endpoint(Protocol):
    """A publisher or listener: the connection counts as up only while all of its endpoints work."""

    async def open(self, connection: Connection) -> Channel:
        """Open a channel on `connection` and start working on it."""
        ...

    def lost(self) -> None:
        """Forget the channel: it is gone."""
        ...


class AmqpConnection(Supervised[Connection]):
    """One supervised connection to the broker; see `Supervised` for the callbacks.

    Endpoints are opened in the order in which they were added, `prepare` (declarations) first.
    """

    def __init__(  # noqa: PLR0913 - what a connection is told, and whom it tells
        self,
        url: str,
        *,
        name: str,
        prepare: Callable[[Connection], Awaitable[object]] | None = None,
        on_state: Callable[[bool], None] | None = None,
        on_blocked: Callable[[bool], None] | None = None,
        times: Amqp | None = None,
        holds: bool = False,
        budget: ByteBudget | None = None,
    ) -> None:
        """Describe the connection; `start` opens it. Without `times` it uses the defaults.

        `holds` tells whether tasks are held on it, see `Supervised`; `budget` counts the bytes of
        its deliveries and is rebalanced at each tick.
        """
        super().__init__(url, name, on_state, on_blocked, times=times, holds=holds)
        self.budget = budget
        self._prepare = prepare
        self._endpoints: list[Endpoint] = []
        self._overdue: list[Callable[[], bool]] = []
        self._keepers: list[Subscription] = []

    def consume(
        self,
        consumer: Consumer,
        prepare: Prepare | None = None,
        on_silent: Callable[[bool], None] | None = None,
    ) -> Subscription:
        """Add a consumer, before `start`; the connection counts as up without it.

        Raises `RuntimeError` after that: nothing would open it until the connection is built anew.
        `prepare` (declarations) and `on_silent` are passed to its `Subscription`.
        """
        self._must_not_be_started()
        keeper = Subscription(consumer, self.times, prepare, on_silent)
        self._keepers.append(keeper)
        return keeper

    @property
    def consumes(self) -> bool:
        """Whether all consumers are consuming."""
        return all(keeper.opened.is_set() for keeper in self._keepers)

    async def start(self, timeout: float | None = None) -> None:
        """Connect; wait until the connection is up, and a limited time for its consumers.

        Raises as `Supervised.start`. A queue that does not answer within `Amqp.answer` seconds is
        waited for in the background.
        """
        await super().start(timeout)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.times.answer):
                for keeper in self._keepers:
                    await keeper.opened.wait()

    def add_endpoint(self, endpoint: Endpoint, overdue: Callable[[], bool] | None = None) -> None:
        """Add an endpoint, before `start`; raises `RuntimeError` after that, as `consume`.

        `overdue` is called at each tick and tells whether an answer of the broker is overdue; it is
        not called while a broker alarm holds back publishes.
        """
        self._must_not_be_started()
        self._endpoints.append(endpoint)
        if overdue is not None:
            self._overdue.append(overdue)

    def _must_not_be_started(self) -> None:
        if self._supervisor is not None:
            raise RuntimeError(f"the connection {self.name} has been started")

    async def connection(self) -> Connection:
        """Return the present connection, once it is up. Raises `BrokerUnavailable` when closed."""
        await self.wait_up()
        if self._wire is None:
            raise BrokerUnavailable(f"the connection {self.name} was lost")
        return self._wire

    async def _build(self) -> None:
        wire = Connection(str(self._url))
        await wire.open(self.times.connect)
        self._keep(wire)
        self._check_room(wire)
        if self._prepare is not None:
            await self._prepare(wire)
        for endpoint in self._endpoints:
            self._hear_of(wire, await endpoint.open(wire))
        for keeper in self._keepers:
            keeper.attach(wire, self.suspect)

    def _check_room(self, wire: Connection) -> None:
        most, needed = wire.channel_max, len(self._endpoints) + len(self._keepers) + SPARE_CHANNELS
        if needed > most:
            raise TooFewChannels(
                f"RabbitMQ lets a connection have {most} channels (channel_max in rabbitmq.conf), "
                f"and {self.name} needs {needed}: one for each of its {len(self._keepers)} queues"
            )

    def _tick(self) -> None:
        for keeper in self._keepers:
            keeper.tick()
        if self.budget is not None:
            self.budget.rebalance()

    def _forget(self) -> None:
        for keeper in self._keepers:
            safely(keeper.on_lost)
        for endpoint in self._endpoints:
            safely(endpoint.lost)

    def _is_overdue(self) -> bool:
        late = [overdue() for overdue in self._overdue]  # each of them counts its ticks
        return any(late)
