"""One supervised AMQP connection of the hot path, and what lives on it."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import aiormq
from aiormq.abc import AbstractChannel

from maniple.errors import BrokerUnavailable
from maniple.timings import Amqp
from maniple.transport.supervision import Supervised
from maniple.transport.wire import Wire


class Endpoint(Protocol):
    """Something that lives on a link: a publisher or a consumer."""

    async def open(self, connection: aiormq.Connection) -> AbstractChannel:
        """Open a channel on `connection` and make the endpoint work on it."""
        ...

    def lost(self) -> None:
        """Forget the channel: it is gone."""
        ...


class Link(Supervised):
    """One supervised connection to the broker; see `Supervised` for the callbacks.

    Endpoints are opened in the order in which they were added, `prepare` (declarations) first.
    """

    def __init__(  # noqa: PLR0913 - what a connection is told, and whom it tells
        self,
        url: str,
        *,
        name: str,
        prepare: Callable[[aiormq.Connection], Awaitable[object]] | None = None,
        on_state: Callable[[bool], None] | None = None,
        on_blocked: Callable[[bool], None] | None = None,
        times: Amqp | None = None,
        holds: bool = False,
    ) -> None:
        """Describe the connection; `start` opens it. Without `times` it keeps the defaults.

        `holds` says whether tasks are held on it, see `Supervised`.
        """
        super().__init__(url, name, on_state, on_blocked, times=times, holds=holds)
        self._prepare = prepare
        self._endpoints: list[Endpoint] = []
        self._overdue: list[Callable[[], bool]] = []

    def add(self, endpoint: Endpoint, overdue: Callable[[], bool] | None = None) -> None:
        """Put an endpoint on the link before it is started.

        `overdue` is asked at each tick whether the broker owes it an answer for too long, but not
        while an alarm of the broker holds back what is published.
        """
        self._endpoints.append(endpoint)
        if overdue is not None:
            self._overdue.append(overdue)

    async def connection(self) -> aiormq.Connection:
        """Return the present connection, once it is up. Raises `BrokerUnavailable` when closed."""
        await self.wait_up()
        if self._wire is None:
            raise BrokerUnavailable(f"the connection {self.name} was lost")
        return self._wire

    async def _build(self) -> None:
        wire = Wire(str(self._url))
        await wire.open(self.times.connect)
        self._keep(wire)
        if self._prepare is not None:
            await self._prepare(wire)
        for endpoint in self._endpoints:
            self._hear_of(wire, await endpoint.open(wire))

    def _forget(self) -> None:
        for endpoint in self._endpoints:
            endpoint.lost()

    def _is_overdue(self) -> bool:
        late = [overdue() for overdue in self._overdue]  # each of them counts its ticks
        return any(late)
