"""Which addresses may break the connection that publishes to them.

RabbitMQ 3.10 closes a connection over a direct reply-to address of a node that is gone. Nobody can
tell by looking at it which nodes there are. So until something that was sent to a node has been
answered on this connection, its addresses are suspect: they are sent to one after the other. When
the connection is lost, the one that was under way is to blame: its node is shunned for a while, and
all else is sent again.
"""

import asyncio
from collections.abc import Callable

MOST_KNOWN = 1024  # nodes; their names may be from outside
SHUNNED_SECONDS = 60.0
DOUBTS = 2  # losses of which the broker did not say that they were of its own making


class Suspects:
    """What is known of the kinds of addresses. Reads no clock: times are the caller's.

    `kind_of` tells the kind of an address, such as its node, or None for one that is harmless.
    """

    def __init__(self, kind_of: Callable[[str], str | None]) -> None:
        """Know nothing."""
        self._kind_of = kind_of
        self._good: set[str] = set()
        self._doubts: dict[str, int] = {}
        self._shunned: dict[str, int] = {}
        self.turn = asyncio.Lock()
        """Whoever sends to a suspect has it."""

    def shuns(self, key: str, now: int) -> bool:
        """Tell whether nothing is to be sent to an address and its like."""
        if not self._shunned:
            return False
        return self._shunned.get(self._kind_of(key) or "", now) > now

    def suspects(self, key: str) -> bool:
        """Tell whether an address is to be sent to alone."""
        kind = self._kind_of(key)
        return kind is not None and kind not in self._good

    def answered(self, key: str) -> None:
        """Take that something that was sent to an address was answered."""
        kind = self._kind_of(key)
        if kind is None:
            return
        self._doubts.pop(kind, None)
        if len(self._good) >= MOST_KNOWN:
            self._good.clear()  # what is in use is soon found again
        self._good.add(kind)

    def blame(self, key: str, until: int, *, sure: bool) -> None:
        """Take that the connection was lost over an address; shun its like `until` then.

        If that is not `sure`, after `DOUBTS` of them: connections are lost for other reasons, too.
        """
        kind = self._kind_of(key)
        if kind is None:
            return
        doubts = self._doubts.pop(kind, 0) + 1
        known = self._shunned if sure or doubts >= DOUBTS else self._doubts
        if len(known) >= MOST_KNOWN:
            known.pop(next(iter(known)))
        known[kind] = until if known is self._shunned else doubts

    def lost(self) -> None:
        """Take that the connection is gone: one of those that were good may have gone with it."""
        self._good.clear()
