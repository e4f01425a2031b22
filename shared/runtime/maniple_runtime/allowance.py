"""A token bucket within one process. Pure; not for several threads."""


class Allowance:
    """Allows `rate` events per second on average, and `most` at once."""

    def __init__(self, rate: float, most: float | None = None) -> None:
        """Start full, with `most` (None: the number of one second); `rate` is per second."""
        if most is None:
            most = max(1.0, rate) if rate else 0.0
        self._rate = rate
        self._left = self._most = most
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Take one token, if there is one; `now` is seconds of a steady clock."""
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
