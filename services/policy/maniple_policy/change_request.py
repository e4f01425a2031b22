"""One request that changes policies, while it is handled."""

from collections.abc import Callable, Mapping, Sequence

from maniple.identifiers import new_id
from maniple_policy.domain.changes import Step, Wanted
from maniple_policy.domain.records import Stored
from maniple_policy.domain.request_log import Ends, RequestLog
from maniple_runtime.control.requests import Asked


class ChangeRequest:
    """The changes that a request asks for, and which of them are done."""

    def __init__(
        self, asked: Asked, keys: Sequence[str], wanted: Callable[[], Sequence[Wanted]]
    ) -> None:
        self.request = asked.identity or new_id()  # a commit may arrive though its answer does not
        self.comes_again = bool(asked.identity)
        self.keys = keys
        self.done: dict[str, Step] = {}
        self.news: list[Stored] = []
        self._wanted = wanted
        self._others: Ends | None = () if asked.may_repeat else None

    def remaining(self) -> list[Wanted]:
        """Return the changes that are not done yet."""
        if len(self.done) == len(self.keys):
            return []
        return [one for one in self._wanted() if one.key not in self.done]

    def recall(self, memory: RequestLog, records: Mapping[str, Stored]) -> None:
        """Mark what this request has done before; another request with the same id is ignored."""
        if self._others is None:
            self._others = memory.ends.get(self.request, ())
        if memory.ends.get(self.request, ()) != self._others:
            self.done |= memory.steps(self.request, self.keys, records)
