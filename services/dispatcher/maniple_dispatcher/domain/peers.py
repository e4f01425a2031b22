"""Which dispatchers there are, and which of them owns what. Pure.

Rendezvous hashing over those that are ready and were heard lately: all that hear the same agree,
and one that leaves moves only what it owned.
"""

from hashlib import blake2b

MAX_OWNERS = 50_000


class Peers:
    """The dispatchers, this one among them, by names that are unique to a life."""

    def __init__(self, me: str, alive: float) -> None:
        self.me = me
        self._alive = alive
        self._heard: dict[str, float] = {}
        self._ready: frozenset[str] = frozenset()
        self._owners: dict[str, str | None] = {}
        self.alone = True
        """Whether nobody else owns anything."""

    def __len__(self) -> int:
        return len(self._ready)

    def counts(self, peer: str) -> bool:
        """Whether one may own something."""
        return peer in self._ready

    def heard(self, peer: str, now: float, *, ready: bool) -> bool:
        """Take a sign of life; tells whether that one counts only from now on."""
        known = peer in self._ready
        if ready:
            self._heard[peer] = now
        else:
            self._heard.pop(peer, None)
        self._settle()
        return ready and not known

    def unheard_for(self, peer: str | None, now: float) -> float:
        """Return for how many seconds one that counts was not heard."""
        return now - self._heard.get(peer or "", float("-inf"))

    def left(self, peer: str) -> None:
        """Take that one owns nothing any more."""
        self._heard.pop(peer, None)
        self._settle()

    def look(self, now: float) -> None:
        """Forget who was not heard for too long."""
        self._heard = {p: at for p, at in self._heard.items() if now - at <= self._alive}
        self._settle()

    def owner(self, key: str) -> str | None:
        """Return who owns a key; None while nobody is ready."""
        try:
            return self._owners[key]
        except KeyError:
            pass
        if len(self._owners) >= MAX_OWNERS:
            self._owners.clear()
        found = max(self._ready, key=lambda peer: _weight(peer, key), default=None)
        self._owners[key] = found
        return found

    def owns(self, key: str) -> bool:
        """Whether this one owns a key."""
        return self.owner(key) == self.me

    def _settle(self) -> None:
        ready = frozenset(self._heard)
        if ready != self._ready:
            self._ready = ready
            self.alone = ready <= {self.me}
            self._owners.clear()


def _weight(peer: str, key: str) -> tuple[bytes, str]:
    hashed = blake2b(f"{peer}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8)
    return hashed.digest(), peer
