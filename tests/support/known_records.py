"""Records whose content is known at once, in place of searching them."""

from maniple_dispatcher.ingress.record_lookup import RecordLookup, Then
from maniple_runtime.records import Record, TaskKey


class Known(RecordLookup):
    """Answers each request with one record, and remembers the requests."""

    def __init__(self, record: Record | None) -> None:
        self.record = record
        self.asked: list[TaskKey] = []
        self.since = 0.0

    def ask(
        self, key: TaskKey, then: Then, since: float = 0.0, *, capability: str | None = None
    ) -> None:
        del capability
        self.since = since
        self.asked.append(key)
        then(self.record)
