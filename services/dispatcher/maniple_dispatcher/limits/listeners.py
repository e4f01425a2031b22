"""Dispatchers that listen, to be told all that is known. Pure."""

MOST_TOLD = 20  # times that one is told all in one life; what it has not taken by then lies ready
MAX_LISTENING = 1_000


class Listeners:
    """In which life, and how often, each was told."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, int]] = {}

    def is_to_be_told(self, dispatcher: str, life: int) -> bool:
        """Tell whether one that listens is told all again: not for ever, if it stays deaf."""
        known, times = self._told.pop(dispatcher, (life, 0))
        if known != life:
            times = 0
        if len(self._told) >= MAX_LISTENING:
            del self._told[next(iter(self._told))]
        self._told[dispatcher] = life, min(times + 1, MOST_TOLD)
        return times < MOST_TOLD
