"""How a process retries calls to a server that failed: tenacity's backoff, with jitter."""

import random

from tenacity import RetryCallState, wait_exponential

FIRST = 0.5  # seconds before the second try
LONGEST = 5.0


class EqualJitter(wait_exponential):
    """Pauses that double from `first` to at most `longest` seconds, each up to a half shorter.

    The shortening keeps processes that lost the same server from coming back in step.
    """

    def __init__(self, first: float = FIRST, longest: float = LONGEST) -> None:
        """Set the first and the longest pause, in seconds."""
        super().__init__(multiplier=first, max=longest)

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the seconds to wait after the attempt in `retry_state`."""
        return random.uniform(0.5, 1.0) * super().__call__(retry_state)


def error_of(attempt: RetryCallState) -> BaseException:
    """Return the error of the attempt that is to be retried."""
    error = attempt.outcome.exception() if attempt.outcome is not None else None
    if error is None:
        raise ValueError("the attempt has not failed")
    return error
