"""What a permit is asked of: a rate limit, a bulkhead, or the probes of a breaker. Pure."""

from msgspec import Struct

from maniple_dispatcher.limits.token_bucket import Terms


class TokenBucketLimit(Struct, frozen=True):
    """A rate limit, of which a token is asked for."""

    key: str
    terms: Terms


class ConcurrencyLimit(Struct, frozen=True):
    """A bulkhead, in which room is asked for; it has `most` in all.

    `lane` is where the task goes; `lanes`, where others go that ask after it, in their order; `had`
    are lanes of tasks that have been granted something before.
    """

    key: str
    most: int
    lane: str = ""
    lanes: tuple[str, ...] = ()
    had: tuple[str, ...] = ()

    def goes_to(self, granted: int) -> tuple[str, ...]:
        """Return where tasks may be when so many of those that ask are granted something."""
        return (*(self.lane, *self.lanes)[:granted], *self.had)


class ProbeLimit(Struct, frozen=True):
    """The breaker of a lane, which lets a few tasks through to see whether they fail."""

    key: str
    lane: str


Limit = TokenBucketLimit | ConcurrencyLimit | ProbeLimit
"""What a permit is asked of."""
