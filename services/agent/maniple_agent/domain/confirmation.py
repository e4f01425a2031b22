"""What an agent may do while the broker does not confirm its heartbeats. Pure."""

from dataclasses import dataclass, field

from maniple.timings import Timings


@dataclass(slots=True)
class Confirmation:
    """When the last heartbeat that the broker confirmed was sent, in seconds of a steady clock."""

    sent_at: float
    timings: Timings = field(default_factory=Timings)

    def confirm_heartbeat(self, sent_at: float) -> None:
        """Record a confirmed heartbeat; late news of an older one changes nothing."""
        self.sent_at = max(self.sent_at, sent_at)

    def fenced(self, now: float) -> bool:
        """Tell whether nothing new may be taken or started."""
        return now - self.sent_at > self.timings.fencing.fenced

    def exclusive_over(self, now: float) -> bool:
        """Tell whether what must not run twice has to stop: it may soon run elsewhere."""
        return now - self.sent_at > self.timings.fencing.exclusive

    def given_up(self, now: float) -> bool:
        """Tell whether others take the agent for failed, so that it has no delivery to lose.

        When a registry has declared it failed, its tasks are given to others in any case.
        """
        return now - self.sent_at > self.timings.bounds.failed


@dataclass(slots=True)
class Pace:
    """Lets something happen at most once in so many seconds."""

    seconds: float
    last: float = float("-inf")

    def allows(self, now: float) -> bool:
        """Tell whether it may happen now; if so, it counts as done."""
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True

    def hold_off(self, seconds: float, now: float) -> None:
        """Allow it after so many seconds, at the earliest."""
        self.last = max(self.last, now + seconds - self.seconds)
