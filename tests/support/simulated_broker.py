"""A broker in virtual time: exchanges that copy messages to all their listeners.

Each connection is a wire of its own. Messages take time; those on one wire, each way, arrive in the
order in which they were sent. A wire that is cut holds them; when its client has heard nothing for
so long that it takes it for dead, what was on it is lost, with the connection's own queues. The
same happens when the broker has heard nothing of a process that stands still.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Self

from maniple.amqp import QueueView
from maniple.errors import BrokerUnavailable, RequestFailed
from maniple.timings import Amqp
from maniple.topology import CONTROL, EVENTS, HEARTBEATS, Exchange
from maniple_runtime.control.messages import Command, Heartbeat, Request
from maniple_runtime.events import Event
from started_in_tasks import StartedInTasks
from virtual_time import Process, World

TIMES = Amqp()
SILENCE = (TIMES.silent, TIMES.silent + TIMES.tick)  # seconds until a client takes it for dead
UNHEARD = (2.0 * TIMES.heartbeat, 3.0 * TIMES.heartbeat)  # the same of the broker
AGAIN = 0.5
PUBLISH_TIMEOUT = 10.0
REQUEST_TIMEOUT = 5.0
LOOK_TIMEOUT = 2.0
Take = Callable[[Any], object]
Delay = Callable[[], float]


class Wire:
    """One connection of a process, from its start through all losses."""

    def __init__(self, broker: "Broker", process: Process, name: str) -> None:
        self.broker, self.process, self.name = broker, process, name
        self.up = False
        self.on_state: Callable[[bool], object] = lambda _: None
        self.waiting: dict[asyncio.Future[None], None] = {}  # in the order of their sending
        self.life = 0
        self.losses = 0
        self.is_cut = False
        self._held: list[tuple[bool, Callable[[], object]]] = []
        self._there = self._here = 0.0
        self._back = asyncio.Event()

    def to_broker(self, do: Callable[[], object]) -> None:
        """Send; what is under way when the process dies still arrives."""
        self._travel(do, there=True)

    def to_process(self, do: Callable[[], object]) -> None:
        """Deliver."""
        self._travel(do, there=False)

    def _travel(self, do: Callable[[], object], *, there: bool) -> None:
        if self.is_cut:
            self._held.append((there, do))
            return
        world, losses = self.broker.world, self.losses
        at = max(world.now + self.broker.delay(), self.broker.stalled_until)
        if there:
            self._there = at = max(self._there, at)
        else:
            self._here = at = max(self._here, at)

        def arrive() -> None:
            if self.losses != losses:
                return
            if there:
                do()
            else:  # in its socket: it is read, if late, before the end of the connection is
                world.at(world.now, do, self.process)

        world.at(at, arrive)

    def cut(self, seconds: float | None) -> None:
        """Block the wire for so long; what is sent meanwhile arrives then, if it still stands.

        None: until its client takes it for dead; the next connection works at once.
        """
        if self.is_cut:
            return
        self.is_cut = True
        world, life = self.broker.world, self.life
        silence = world.between(*SILENCE)
        if seconds is None or seconds > silence:
            world.after(silence, lambda: self.lose() if self.life == life else None)
        world.after(silence if seconds is None else seconds, self._mend)

    def _mend(self) -> None:
        self.is_cut = False
        held, self._held = self._held, []
        for there, do in held:
            self._travel(do, there=there)

    def end(self) -> None:
        """End it for a dead process: its queues are gone, and what it said last is still heard."""
        self.life += 1
        self.up = False

    def lose(self) -> None:
        """Break it: its queues are gone, and so is what was under way on it."""
        self.life += 1
        self.losses += 1
        self._held.clear()
        self._here = max(self._here, self.broker.world.now)
        self.broker.world.at(self._here, self._lost, self.process)

    def _lost(self) -> None:
        was_up, self.up = self.up, False
        self._back.clear()
        for future in self.waiting:
            if not future.done():
                future.set_exception(BrokerUnavailable("the connection was lost"))
        if was_up:
            self.on_state(False)
        self._dial()

    def _dial(self) -> None:
        pause = self.broker.world.between(AGAIN / 5, AGAIN)
        self.broker.world.after(pause, self.connect, self.process)

    def connect(self) -> None:
        """Connect, or try again later while it is cut."""
        if self.up:
            return
        if self.is_cut or self.broker.world.now < self.broker.stalled_until:
            self._dial()
            return
        self.up = True
        self._back.set()
        self.on_state(True)

    async def wait_up(self) -> None:
        """Wait until it stands."""
        await self._back.wait()

    async def confirmed(self, do: Callable[[], object]) -> None:
        """Do something at the broker; returns once it has confirmed."""
        if not self.up:
            raise BrokerUnavailable("no connection")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting[future] = None

        def there() -> None:
            do()
            self.to_process(lambda: None if future.done() else future.set_result(None))

        self.to_broker(there)
        try:
            await future
        finally:
            self.waiting.pop(future, None)

    async def published(self, do: Callable[[], object], timeout: float | None) -> None:
        """Do something at the broker, again if the wire is lost before it has confirmed."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await self.wait_up()
                    with contextlib.suppress(BrokerUnavailable):
                        return await self.confirmed(do)
        except TimeoutError as error:
            raise BrokerUnavailable("not confirmed in time") from error


class Broker:
    """Who listens where, the state of all queues, and every event that was published."""

    def __init__(self, world: World, delay: Delay) -> None:
        self.world, self.delay = world, delay
        self.stalled_until = 0.0
        self.wires: list[Wire] = []
        self.queues: dict[str, QueueView] = {}
        self.events: list[tuple[float, Event]] = []
        self.silent: set[str] = set()
        """Queues that do not answer, whose leader is gone: the broker shows them as blank."""
        self._listeners: list[tuple[Wire, int, str, str, Take]] = []
        self.services: dict[str, list[tuple[Wire, Mapping[str, Any]]]] = {}
        self.published: Callable[[Event], object] = lambda _: None

    def connect(self, process: Process, name: str) -> Wire:
        """Start a connection of that name; it is not up yet."""
        wire = Wire(self, process, name)
        self.wires.append(wire)
        return wire

    def of(self, process: Process) -> list[Wire]:
        """Return the connections of a process."""
        return [wire for wire in self.wires if wire.process is process]

    def reaches(self, process: Process) -> bool:
        """Tell whether something that is sent to a process now arrives soon."""
        stands = self.world.now >= self.stalled_until and not process.frozen
        return stands and all(wire.up and not wire.is_cut for wire in self.of(process))

    def cut(self, process: Process, seconds: float) -> None:
        """Cut a process off."""
        self.world.tell(f"{process.name} is cut off for {seconds:.3f} s")
        for wire in self.of(process):
            wire.cut(seconds)

    def forget(self, process: Process) -> None:
        """Make a process's connections go dead silently; new ones work at once."""
        self.world.tell(f"the connections of {process.name} are forgotten on the way")
        for wire in self.of(process):
            wire.cut(None)

    def freeze(self, process: Process, seconds: float) -> None:
        """Freeze a process; the broker gives it up after a while."""
        process.freeze(seconds)
        for wire in self.of(process):
            if seconds > (unheard := self.world.between(*UNHEARD)):
                self.world.after(unheard, wire.lose)

    def kill(self, process: Process) -> None:
        """Kill a process: its connections close at once."""
        process.kill()
        for wire in self.of(process):
            wire.end()

    def stall(self, seconds: float) -> None:
        """Freeze the broker."""
        self.world.tell(f"the broker stands still for {seconds:.3f} s")
        self.stalled_until = self.world.now + seconds

    def restart(self, seconds: float = 0.0) -> None:
        """End all connections, and accept none for so long."""
        self.world.tell(f"the broker restarts, and is back after {seconds:.3f} s")
        self.stalled_until = max(self.stalled_until, self.world.now + seconds)
        for wire in self.wires:
            wire.lose()

    def listen(self, wire: Wire, exchange: str, key: str, take: Take) -> None:
        """Bind an exclusive queue of this connection."""
        self._listeners.append((wire, wire.life, exchange, key, take))

    def copy(self, exchange: str, key: str, message: Any) -> int:
        """Deliver to all listeners; returns how many."""
        self._listeners = [one for one in self._listeners if one[0].life == one[1]]
        found = 0
        for wire, _, bound, pattern, take in self._listeners:
            if bound == exchange and (not pattern or pattern == key or fnmatchcase(key, pattern)):
                wire.to_process(lambda take=take: take(message))  # type: ignore[misc]  # bound now
                found += 1
        return found

    def emit(self, event: Event) -> None:
        """Store an event and deliver it."""
        self.events.append((self.world.now, event))
        self.published(event)
        self.copy(EVENTS.name, event.KEY, event)


class SimulatedPlane:
    """`ControlPlane` over a simulated wire."""

    broker: Broker  # given to the class that stands in for it in a world

    def __init__(self, _url: str, *, name: str, **_: Any) -> None:
        process: Any = asyncio.get_running_loop()
        self.wire = self.broker.connect(process, name)
        self.wire.on_state = self._on_state
        self.name = name
        self.reconnects = -1
        self.blocked = False
        self._bindings: list[tuple[str, str, Take]] = []

    async def __aenter__(self) -> Self:
        self.wire.connect()
        await self.wire.wait_up()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def _on_state(self, up: bool) -> None:
        if up:
            self.reconnects += 1
            for exchange, key, take in self._bindings:
                self.broker.listen(self.wire, exchange, key, take)

    @property
    def connected(self) -> bool:
        return self.wire.up

    @property
    def connections(self) -> tuple[str, ...]:
        return (self.name,)

    async def wait_connected(self) -> None:
        await self.wire.wait_up()

    def reconnect(self) -> None:
        if self.wire.up:
            self.wire.lose()

    async def subscribe(
        self, exchange: Exchange, keys: Sequence[str], model: Any, handler: Take
    ) -> None:
        def take(message: Any) -> Any:
            return handler(message) if isinstance(message, model) else None

        for key in keys:
            self._bindings.append((exchange.name, key, take))
            self.broker.listen(self.wire, exchange.name, key, take)

    async def respond(self, service: str, operations: Mapping[str, Any]) -> None:
        consumers = self.broker.services.setdefault(service, [])
        self.wire.to_broker(lambda: consumers.append((self.wire, operations)))

    async def request(
        self,
        service: str,
        op: str,
        body: Mapping[str, Any] | None = None,
        timeout: float = REQUEST_TIMEOUT,
    ) -> dict[str, Any]:
        """Ask one of the consumers of requests, at random: it may be cut off, frozen or dying."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        request = Request(op=op, body=dict(body or {}))

        def there() -> None:
            listed = self.broker.services.get(service, ())
            if asked := [one for one in listed if one[0].up]:
                wire, operations = self.broker.world.random.choice(asked)
                wire.to_process(
                    lambda: wire.process.create_task(
                        self._answer(operations[op], request, wire, future)
                    )
                )

        try:
            async with asyncio.timeout(timeout):
                await self.wire.wait_up()
                self.wire.to_broker(there)
                return await future
        except TimeoutError as error:
            raise BrokerUnavailable("no answer in time") from error

    async def _answer(
        self,
        answer: Callable[[Request], Awaitable[dict[str, Any]]],
        request: Request,
        wire: Wire,
        future: asyncio.Future[dict[str, Any]],
    ) -> None:
        try:
            body: dict[str, Any] | RequestFailed = await answer(request)
        except RequestFailed as error:
            body = error

        def settle() -> None:
            if not future.done():
                if isinstance(body, RequestFailed):
                    future.set_exception(body)
                else:
                    future.set_result(body)

        if wire.up:
            wire.to_broker(lambda: self.wire.to_process(settle))

    async def emit(self, event: Event, timeout: float = PUBLISH_TIMEOUT) -> None:
        await self.wire.published(lambda: self.broker.emit(event), timeout)

    async def command(self, key: str, command: Command, timeout: float = PUBLISH_TIMEOUT) -> bool:
        heard: list[int] = []

        def copy() -> None:
            heard.append(self.broker.copy(CONTROL.name, key, command))

        await self.wire.published(copy, timeout)
        return bool(heard[0])

    async def publish(
        self, exchange: Exchange, key: str, message: Any, timeout: float = PUBLISH_TIMEOUT
    ) -> None:
        await self.wire.published(lambda: self.broker.copy(exchange.name, key, message), timeout)

    async def heartbeat(self, heartbeat: Heartbeat, timeout: float = PUBLISH_TIMEOUT) -> None:
        body = heartbeat.to_json()
        message = body, Heartbeat.TYPE, ""
        await self.wire.published(lambda: self.broker.copy(HEARTBEATS.name, "", message), timeout)


class SimulatedLink:
    """`AmqpConnection` over a simulated wire."""

    broker: Broker

    def __init__(
        self, _url: str, *, name: str, on_state: Callable[[bool], object], **_: Any
    ) -> None:
        process: Any = asyncio.get_running_loop()
        self.name = name
        self.wire = self.broker.connect(process, name)
        self.wire.on_state = self._on_state
        self.reconnects = -1
        self.bindings: list[tuple[str, str, Take]] = []
        self._tell = on_state

    @property
    def is_up(self) -> bool:
        return self.wire.up

    def _on_state(self, up: bool) -> None:
        if up:
            self.reconnects += 1
            for exchange, key, take in self.bindings:
                self.broker.listen(self.wire, exchange, key, take)
        self._tell(up)

    async def start(self, _timeout: float) -> None:
        self.wire.connect()
        await self.wire.wait_up()

    async def close(self) -> None: ...


class SimulatedListener:
    """`Listener` on a simulated link."""

    def __init__(
        self,
        link: SimulatedLink,
        bindings: Iterable[tuple[str, str]],
        take: Callable[[Any, str, str], object],
    ) -> None:
        for exchange, key in bindings:
            link.bindings.append(
                (exchange, key, lambda m: take(*m) if isinstance(m, tuple) else None)
            )


class SimulatedPublisher(StartedInTasks):
    """`Publisher` on a simulated link."""

    def __init__(self, link: SimulatedLink, **_: Any) -> None:
        self._link = link

    async def publish(self, message: Any, *, timeout: float | None = None) -> None:
        content = message.body, message.type, message.message_id

        def copy() -> None:
            self._link.broker.copy(message.exchange, message.routing_key, content)

        await self._link.wire.published(copy, timeout)


class SimulatedInspector:
    """`Inspector` on a simulated link."""

    def __init__(self, link: SimulatedLink) -> None:
        self._link = link

    async def inspect_queue(self, queue: str) -> QueueView:
        """Inspect; a queue whose leader is gone looks blank."""
        broker, found = self._link.broker, list[QueueView]()

        def see() -> None:
            none = QueueView(0, 0, there=queue in broker.silent)
            found.append(none if none.there else broker.queues.get(queue, none))

        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                await self._link.wire.confirmed(see)
        except TimeoutError as error:
            raise BrokerUnavailable("cannot be looked at") from error
        return found[0]
