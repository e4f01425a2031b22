"""The pace at which a process tries again what a server did not do: tenacity's, with jitter."""

import random

from tenacity import RetryCallState, wait_exponential

FIRST = 0.5  # seconds before the second try
LONGEST = 5.0


class EqualJitter(wait_exponential):
    """Pauses that double from `first` to at most `longest` seconds, each up to a half shorter.

    The shortening keeps processes that lost the same server from coming back in step.
    """

    def __init__(self, first: float = FIRST, longest: float = LONGEST) -> None:
        """Take seconds."""
        super().__init__(multiplier=first, max=longest)

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the seconds to wait after the attempt that `retry_state` tells of."""
        return random.uniform(0.5, 1.0) * super().__call__(retry_state)


def error_of(attempt: RetryCallState) -> BaseException:
    """Return the error with which an attempt that is made again has ended."""
    error = attempt.outcome.exception() if attempt.outcome is not None else None
    if error is None:
        raise ValueError("the attempt has not failed")
    return error
