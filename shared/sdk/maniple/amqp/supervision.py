"""Keeping a connection up: it is built, watched, and rebuilt as a whole when any part is lost."""

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from yarl import URL

from maniple.amqp.connection_errors import is_loss
from maniple.amqp.liveness import Liveness
from maniple.amqp.refusal import refusal, why_away
from maniple.amqp.wire.interface import Closing, Wire
from maniple.errors import BrokerRefused, BrokerUnavailable, ConfigurationError
from maniple.loops import end, left_alone
from maniple.timings import Amqp
from maniple.urls import place_of

FIRST_BACKOFF = 0.1
STEADY_AFTER = 3.0  # seconds; what falls sooner counts as another failure in a row
CLOSE_TIMEOUT = 2.0

_log = logging.getLogger(__name__)

W = TypeVar("W", bound=Wire)


def backoff(failures: int, most: float) -> float:
    """Seconds to wait after so many failures in a row: doubling up to `most`, with jitter."""
    return random.uniform(0.5, 1.0) * min(most, FIRST_BACKOFF * 2.0 ** min(failures, 10))


class TooFewChannels(ConfigurationError):
    """The broker allows a connection fewer channels than it needs; retrying is of no use."""


def is_hopeless(error: BaseException | None) -> bool:
    """Tell whether retrying would fail in the same way."""
    return isinstance(error, ConfigurationError) or refusal(error) is not None


class Supervised(ABC, Generic[W]):
    """A connection that is built as a whole, and rebuilt whenever any part of it is lost.

    `name` is the connection's name as the broker shows it. `on_state(up)` is called at each change,
    `on_blocked(blocked)` when a broker alarm (memory, disk) starts or stops holding back publishes;
    a blocked connection is left open, however long that takes. Until it has been up once, a
    hopeless error ends it; afterwards every error is retried.
    """

    def __init__(  # noqa: PLR0913 - what a connection is told, and whom it tells
        self,
        url: str,
        name: str,
        on_state: Callable[[bool], None] | None = None,
        on_blocked: Callable[[bool], None] | None = None,
        *,
        times: Amqp | None = None,
        holds: bool = False,
    ) -> None:
        """Describe the connection; `start` opens it. Without `times` it uses the defaults.

        While it `holds` messages, a heartbeat is sent to the broker at each tick: the broker
        redelivers them when it has heard nothing for two of `Amqp.heartbeat`, and what must not run
        twice has to be stopped before. One in half of that time is sent in any case.

        One attempt to connect is short: a new attempt finds a healed network sooner.
        """
        self.name = name
        self.times = times or Amqp()
        self.blocked = False
        self.reconnects = 0
        self.last_error: BaseException | None = None
        self._url = URL(url).update_query(name=name, heartbeat=self.times.heartbeat)
        self._on_state = on_state
        self._on_blocked = on_blocked
        self._holds = holds
        self._up = asyncio.Event()
        self._lost = asyncio.Event()
        self._wire: W | None = None
        self._close_wire: Callable[[], Coroutine[Any, Any, Any]] | None = None
        self._closed = False
        self._supervisor: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @abstractmethod
    async def _build(self) -> None:
        """Connect, register the socket with `_keep`, and open everything on it."""

    @abstractmethod
    def _forget(self) -> None:
        """Forget what was built: it is gone; also called when nothing was built."""

    def _tick(self) -> None:
        """Watch what is on it; called every `Amqp.tick` seconds while it stands."""

    def _is_overdue(self) -> bool:
        """Tell whether an answer of the broker is overdue; called at each tick, if not blocked."""
        return False

    @property
    def is_up(self) -> bool:
        """Whether everything on it works."""
        return self._up.is_set() and not self._closed

    async def start(self, timeout: float | None = None) -> None:
        """Connect and wait until everything is up; on failure it is closed.

        Raises `BrokerUnavailable` if it is not up within `timeout` seconds (None: no limit), and at
        once `BrokerRefused` (the login, the vhost, a right, TLS) and `ConfigurationError` (a TLS
        file, `TooFewChannels`).
        """
        self._supervisor = asyncio.create_task(self._supervise(), name=f"link {self.name}")
        up = asyncio.create_task(self._up.wait())
        try:
            either = {up, self._supervisor}
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.close()
            raise
        finally:
            up.cancel()
        if not self._up.is_set():
            await self.close()
            if isinstance(self.last_error, ConfigurationError):
                raise self.last_error
            raise self._why_not(timeout) from self.last_error

    def _why_not(self, timeout: float | None) -> BrokerUnavailable:
        where = f"RabbitMQ at {place_of(str(self._url))}"
        if (refused := refusal(self.last_error)) is not None:
            return BrokerRefused(f"{where} {refused}")
        within = "" if timeout is None else f" within {timeout:g} s"
        return BrokerUnavailable(f"{where} cannot be reached{within}: {why_away(self.last_error)}")

    async def wait_up(self) -> None:
        """Return when it is up. Raises `BrokerUnavailable` once it is closed."""
        if self._closed:
            raise BrokerUnavailable(f"the connection {self.name} is closed")
        if not self._up.is_set():
            await self._up.wait()
            if self._closed:
                raise BrokerUnavailable(f"the connection {self.name} is closed")

    def suspect(self, error: BaseException | None = None) -> None:
        """Rebuild the connection: something on it does not answer as it should."""
        self.last_error = error or self.last_error
        self._lost.set()

    async def close(self) -> None:
        """Close it; waiting callers get `BrokerUnavailable`."""
        self._closed = True
        if self._supervisor is not None:
            await end(self._supervisor)
        await self._tear_down()
        self._up.set()

    async def _supervise(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while not self._closed:
            if await self._built(min(self.times.longest_open, self.times.open * (1 + failures))):
                since = loop.time()
                self._set_up(up=True)
                await self._lost.wait()
                self.reconnects += 1
                self._set_up(up=False)
                if loop.time() - since >= STEADY_AFTER:
                    failures = 0
            elif is_hopeless(self.last_error) and not self.reconnects:
                return
            await self._tear_down()
            failures += 1
            await asyncio.sleep(backoff(failures, self.times.backoff))

    async def _built(self, timeout: float) -> bool:
        self._lost.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._build()
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not is_loss(error):
                raise
            # Whatever it was: nobody else would try again.
            _log.info("connection %s does not open: %r", self.name, error)
            self.last_error = error
            return False
        return True

    def _keep(self, wire: W, close: Callable[[], Coroutine[Any, Any, Any]] | None = None) -> None:
        """Watch the present socket, and close it at the end: by `close`, if it is given."""
        self._wire = wire
        self._close_wire = close or wire.close
        wire.closing.add_done_callback(partial(self._on_closed, wire))
        self._watch = asyncio.create_task(self._watch_over(wire), name=f"watch {self.name}")
        self._watch.add_done_callback(partial(self._on_watched, wire))

    def _hear_of(self, wire: W, channel: Closing) -> None:
        """Watch a channel for its loss."""
        channel.closing.add_done_callback(partial(self._on_closed, wire))

    def _on_watched(self, wire: W, watch: asyncio.Task[None]) -> None:
        """Rebuild the connection if the task that watches it has ended."""
        if not watch.cancelled() and (error := watch.exception()) is not None:
            _log.error("the watcher of connection %s has failed", self.name, exc_info=error)
            if wire is self._wire:
                self.suspect(error)

    def _on_closed(self, wire: W, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if wire is self._wire:  # the end of an earlier one says nothing
            self.suspect(error)

    async def _watch_over(self, wire: W) -> None:
        liveness = Liveness(wire, self.times)
        reason = ""
        while not reason:
            await asyncio.sleep(self.times.tick)
            if self._holds:
                wire.send_heartbeat()
            if not await liveness.tick():
                reason = f"the broker was silent for {self.times.silent:g} s"
            self._set_blocked(liveness.blocked)
            safely(self._tick)
            if not liveness.blocked and self._is_overdue():
                reason = "what was published was never confirmed"
        self.suspect(BrokerUnavailable(reason))
        wire.abort()

    async def _tear_down(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        wire, self._wire = self._wire, None
        safely(self._forget)
        if wire is not None and self._close_wire is not None:
            ending = _end(wire, self._close_wire)
            self._ending = asyncio.create_task(ending, name=f"close {self.name}")
        if self._ending is not None:
            await asyncio.shield(self._ending)  # `close` waits for it too

    def _set_blocked(self, blocked: bool) -> None:  # noqa: FBT001 - as the callback's argument
        if blocked == self.blocked:
            return
        self.blocked = blocked
        _log.warning("connection %s %s", self.name, "blocked" if blocked else "no longer blocked")
        if self._on_blocked is not None:
            safely(partial(self._on_blocked, blocked))

    def _set_up(self, *, up: bool) -> None:
        if up:
            self._up.set()
        else:
            self._up.clear()
            self._set_blocked(False)
            _log.warning("connection %s lost: %s", self.name, self.last_error)
        if self._on_state is not None:
            safely(partial(self._on_state, up))


def safely(callback: Callable[[], object]) -> None:
    """Call a function whose errors must not end the task that watches a connection."""
    try:
        callback()
    except Exception:  # noqa: BLE001 - whatever it was: the connection must be built again
        _log.exception("the callback of a connection failed")


async def _end(wire: Wire, close: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Close a socket in at most twice `CLOSE_TIMEOUT`, whether or not the broker answers."""
    closing = left_alone(asyncio.create_task(close()))
    await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT)
    # Not cancelled before: the libraries then wait for the socket, which this ends.
    wire.abort()
    await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT)
    closing.cancel()
