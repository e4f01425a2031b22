"""How much a report carries. Pure."""

from collections import deque
from collections.abc import Iterator
from typing import TypeVar

import msgspec

T = TypeVar("T")


class ReportSpace:
    """What a report has room for; an item may go beyond it by its own size."""

    def __init__(self, most: int) -> None:
        """Begin with space for so many bytes."""
        self.left = most

    def fill(self, items: Iterator[T]) -> Iterator[T]:
        """Yield items as long as there is space, and take none from `items` that finds none."""
        while self.left > 0 and (item := next(items, None)) is not None:
            self.left -= len(msgspec.json.encode(item)) + 1  # and a comma
            yield item


def taken(queue: deque[T]) -> Iterator[T]:
    """Yield what is in a queue, each once it is taken out: who stops goes on there."""
    while queue:
        yield queue.popleft()
