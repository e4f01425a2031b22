"""Whether the loop that runs async handlers answers, and whether it ever will. Pure."""

from enum import StrEnum

BLOCKED_AFTER = 2.0
LOST_AFTER = 30.0


class LoopState(StrEnum):
    """`BLOCKED`: a handler holds it up for now. `LOST`: it will not come back."""

    ANSWERS = "answers"
    BLOCKED = "blocked"
    LOST = "lost"


class LoopHealth:
    """Judges a loop by how long it has been silent, and who holds it up.

    There is no other loop to go on with: locks, queues and connections that handlers keep belong to
    the one that they were first used on. So a blocked loop is waited for. It is lost once its
    blockers have been given up (their attempts have ended, so that none of them is repeated because
    of us) and it stays silent for `LOST_AFTER` seconds more.
    """

    def __init__(self) -> None:
        """Begin with one that answers."""
        self.state = LoopState.ANSWERS
        self._given_up_since: float | None = None

    def judge_silence(
        self, silent: float, *, given_up: bool, now: float, behind: bool = False
    ) -> LoopState:
        """Judge it by how long it has been silent; `given_up`: nobody waits for what may block it.

        `behind`: it has not begun in time what it was given, and so is to be given nothing now.
        """
        blocked = behind or silent > BLOCKED_AFTER
        if not blocked or not given_up:
            self._given_up_since = None
        elif self._given_up_since is None:
            self._given_up_since = now
        since = self._given_up_since
        if not blocked:
            self.state = LoopState.ANSWERS
        elif since is not None and now - since > LOST_AFTER:
            self.state = LoopState.LOST
        else:
            self.state = LoopState.BLOCKED
        return self.state
