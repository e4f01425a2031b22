"""Which dispatchers there are, and which of them owns what. Pure.

Rendezvous hashing over those that are ready and were heard lately: all that hear the same agree,
and one that leaves moves only what it owned.

Silence tells of another only as far as we hear ourselves: our own word comes back on the same way.
While it does not (the broker stands still, or cannot be reached) nobody's silence grows, however
long that takes; but what is ours may have another owner after a while.
"""

from hashlib import blake2b

from maniple import timings

MAX_OWNERS = 50_000  # found lately; as many from before are known beside them


class Membership:
    """The dispatchers, this one among them, by names that are unique to a life."""

    def __init__(self, me: str, times: timings.Peers, now: float) -> None:
        self.me = me
        self._times = times
        self._began = now
        self._echo_at: float | None = None
        self._heard: dict[str, float] = {}
        self._wire: dict[str, int] = {}
        self._ready: frozenset[str] = frozenset()
        self._owners: dict[str, str | None] = {}
        self._owners_before: dict[str, str | None] = {}
        self.alone = True
        """Whether nobody else owns anything."""

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def others(self) -> frozenset[str]:
        """Those besides this one that may own something."""
        return self._ready - {self.me}

    def is_counted(self, peer: str) -> bool:
        """Whether one may own something."""
        return peer in self._ready

    @property
    def wire(self) -> int:
        """Up to which form all read that count; the first while this one does not know them."""
        if self.me not in self._ready:
            return 1
        return min(self._wire.get(peer, 1) for peer in self._ready)

    def heard(self, peer: str, now: float, *, ready: bool, wire: int = 1) -> bool:
        """Record a sign of life; tells whether that one counts only from now on.

        Messages up to the form `wire` it reads.
        """
        known = peer in self._ready
        if peer == self.me:
            self._hear_ourselves(now)
        if ready:
            self._heard[peer], self._wire[peer] = now, wire
        else:
            self._heard.pop(peer, None)
        self._settle()
        return ready and not known

    def unheard_for(self, peer: str | None, now: float) -> float:
        """Return for how many seconds, in which we could hear it, one that counts was not heard."""
        return self._until(now) - self._heard.get(peer or "", float("-inf"))

    def begin_hearing(self, now: float) -> None:
        """Record that one can hear from now on, if anything: the connection is new."""
        self._began = now

    def deaf_for(self, now: float) -> float:
        """Return for how many seconds we have not heard even ourselves, though we might have."""
        return now - max(self._began, self._echo_at or self._began)

    def hears(self, now: float) -> bool:
        """Whether our own word comes back, give or take one that is late."""
        return self._echo_at is not None and now - self._echo_at <= 2 * self._times.presence

    def may_be_replaced(self, now: float) -> bool:
        """Whether this one counts, but others may not have heard it for too long, nor has it."""
        return self.is_counted(self.me) and now - self._heard[self.me] > self._times.alive

    def on_leave(self, peer: str) -> None:
        """Record that one owns nothing any more."""
        self._heard.pop(peer, None)
        self._settle()

    def forget_silent(self, now: float) -> None:
        """Forget who was not heard for too long."""
        until, alive = self._until(now), self._times.alive
        self._heard = {p: at for p, at in self._heard.items() if until - at <= alive}
        self._settle()

    def _until(self, now: float) -> float:
        """Return until when silence tells something."""
        return now if self._echo_at is None else min(now, self._echo_at + self._times.presence)

    def _hear_ourselves(self, now: float) -> None:
        """Record that our own word comes back; while it did not, nobody has been silent."""
        if self._echo_at is not None and not self.hears(now):
            deaf = now - self._until(now)
            self._heard = {p: min(now, at + deaf) for p, at in self._heard.items()}
        self._echo_at = now

    def owner(self, key: str) -> str | None:
        """Return who owns a key; None while nobody is ready."""
        try:
            return self._owners[key]
        except KeyError:
            pass
        if len(self._owners) >= MAX_OWNERS:
            self._owners_before, self._owners = self._owners, {}
        if key in self._owners_before:
            found = self._owners_before[key]
        else:
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
            self._wire = {peer: wire for peer, wire in self._wire.items() if peer in ready}
            self.alone = ready <= {self.me}
            self._owners.clear()
            self._owners_before.clear()


def _weight(peer: str, key: str) -> tuple[bytes, str]:
    hashed = blake2b(f"{peer}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8)
    return hashed.digest(), peer
