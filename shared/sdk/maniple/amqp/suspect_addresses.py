"""Which reply addresses may break the connection that publishes to them.

RabbitMQ 3.10 closes a connection over a direct reply-to address of a node that is gone, and an
address does not show whether its node exists. So until a message to a node has been answered on
this connection, the node's addresses are suspect and are sent to one at a time. When the connection
is lost, the address that was under way is to blame. If the broker said that it had failed over
something, its node is shunned for a while; if not, it is only in doubt, because connections are
lost for other reasons too: messages to it are tried again, alone. All other messages are sent
again.

An outsider may name any number of nodes, each of which costs the connection once. So nodes that
have answered before do not queue behind strangers; and strangers, once some have cost the
connection, are tried only now and then.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

MOST_KNOWN = 1024  # nodes; their names may be from outside
SHUNNED_SECONDS = 60.0
DOUBTS = 2  # losses in a row, not of the broker's own making, after which a node is a stranger
LOSS_SECONDS = 10.0  # in which strangers may cost the connection once, in the long run
FREE_LOSSES = 8  # that hold nobody back: some nodes that were taken away, or a few restarts


class SuspectAddresses:
    """What is known of the kinds of addresses. Reads no clock: ticks are passed in.

    `kind_of` returns the kind of an address, such as its node, or None for a harmless one.

    A message to a stranger waits while strangers are held back, as long as its sender likes. A task
    with such an address is not refused: the refusal could not be sent either, and an innocent
    sender would lose both the task and its reply.
    """

    def __init__(self, kind_of: Callable[[str], str | None]) -> None:
        """Start without knowledge of any address."""
        self._kind_of = kind_of
        self._good: set[str] = set()
        self._good_before: set[str] = set()
        """Kinds that have answered, though not on this connection."""
        self._doubts: dict[str, int] = {}
        self._shunned: dict[str, int] = {}
        self._turn = asyncio.Lock()
        self._strangers = asyncio.Lock()
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._now = self._paid_until = self._most_ahead = 0
        self._paid = asyncio.Event()
        self._paid.set()

    def set_time(self, now: int) -> None:
        """Set the time; to be called now and then."""
        self._now = now
        if self._paid_until - now <= self._most_ahead:
            self._paid.set()

    @asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[None]:
        """Keep all others from sending to a suspect.

        Of all strangers, and of the addresses of one kind, only one message at a time waits for its
        turn.
        """
        kind = self._kind_of(key) or ""
        async with AsyncExitStack() as stack:
            if self._is_strange(kind):
                line = self._lines.setdefault(kind, asyncio.Lock())
                await stack.enter_async_context(line)
            if self._is_strange(kind):  # whoever was first may have shown what it is
                await stack.enter_async_context(self._strangers)
                await self._paid.wait()
            await stack.enter_async_context(self._turn)
            yield

    def _is_strange(self, kind: str) -> bool:
        known = kind in self._good or kind in self._good_before
        return not known and self._shunned.get(kind, self._now) <= self._now

    def shuns(self, key: str, now: int) -> bool:
        """Tell whether nothing is to be sent to an address and others of its kind."""
        if not self._shunned:
            return False
        return self._shunned.get(self._kind_of(key) or "", now) > now

    def suspects(self, key: str) -> bool:
        """Tell whether an address is to be sent to alone."""
        kind = self._kind_of(key)
        return kind is not None and kind not in self._good

    def record_answer(self, key: str) -> None:
        """Record that something that was sent to an address was answered."""
        kind = self._kind_of(key)
        if kind is None:
            return
        self._doubts.pop(kind, None)
        for known in (self._good, self._good_before):
            if len(known) >= MOST_KNOWN:
                known.clear()  # what is in use is soon found again
            known.add(kind)

    def blame(self, key: str, now: int, *, shunned: int, held: int, sure: bool) -> None:
        """Record that the connection was lost over an address.

        If that is `sure`, its kind is shunned for `shunned` ticks; if not, it becomes a stranger
        again after `DOUBTS` losses. After `FREE_LOSSES` losses strangers wait `held` ticks for each
        further one.
        """
        kind = self._kind_of(key)
        if kind is None:
            return
        self._now = now
        self._most_ahead = FREE_LOSSES * held
        self._paid_until = max(self._paid_until, now) + held
        if self._paid_until - now > self._most_ahead:
            self._paid.clear()
        doubts = self._doubts.pop(kind, 0) + 1
        if sure:
            _keep(self._shunned, kind, now + shunned)
        elif doubts < DOUBTS:
            _keep(self._doubts, kind, doubts)
            return
        self._good_before.discard(kind)

    def record_loss(self) -> None:
        """Record that the connection is gone: one of those that were good may have gone with it."""
        self._good.clear()


def _keep(known: dict[str, int], kind: str, value: int) -> None:
    known.pop(kind, None)
    if len(known) >= MOST_KNOWN:
        known.pop(next(iter(known)))
    known[kind] = value
