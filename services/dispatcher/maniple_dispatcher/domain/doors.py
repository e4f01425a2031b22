"""Lanes that refused or did not confirm: what would fare no better waits at once. Pure."""

from dataclasses import dataclass

from maniple.messages import Waiting

SHUT_FOR = 0.25  # seconds
STUCK_FOR = 5.0
# Each task that tries a stuck lane stays with the broker, which bounds how many may.
MAX_STUCK_FOR = 60.0
MAX_DOORS = 4096


@dataclass(slots=True)
class _Door:
    why: Waiting
    until: float
    rest: float
    tried: bool = False


Key = tuple[str, str]
"""Name of an exchange, and a routing key on it."""


class Doors:
    """Which keys are shut, and since when one may try again.

    A key that refused is shut for `SHUT_FOR`; then one task may try, and the door stays shut to
    others for as long again, unless that task is taken: then it is open. One that did not confirm
    is shut for `STUCK_FOR`, and twice as long each time again. At most `MAX_DOORS` are remembered
    (keys are names from outside); one that is forgotten is open.
    """

    def __init__(self) -> None:
        self._shut: dict[Key, _Door] = {}

    def refusal(self, key: Key, now: float) -> Waiting | None:
        """Return why a task for `key` need not try now, or None: it may."""
        if not self._shut:
            return None
        door = self._shut.get(key)
        if door is None:
            return None
        if now < door.until:
            return door.why
        door.until = now + door.rest
        door.tried = True
        return None

    def shut(self, key: Key, why: Waiting, now: float) -> None:
        """Take that `key` refused a task, or did not confirm it."""
        if len(self._shut) >= MAX_DOORS and key not in self._shut:
            self._shut = {k: door for k, door in self._shut.items() if now < door.until}
            if len(self._shut) >= MAX_DOORS:
                return
        known = self._shut.get(key)
        rest = SHUT_FOR
        if why is Waiting.UNCONFIRMED:
            rest = STUCK_FOR
            if known is not None and known.why is why:
                if not known.tried:
                    return  # what else was on its way when it became stuck
                rest = min(2 * known.rest, MAX_STUCK_FOR)
        self._shut[key] = _Door(why, now + rest, rest)

    def open(self, key: Key) -> None:
        """Take that `key` took a task."""
        if self._shut:
            self._shut.pop(key, None)
