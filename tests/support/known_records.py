"""Records of which is known at once what they have, in place of looking into them."""

from maniple_dispatcher.ingress.record_lookup import RecordLookup, Then
from maniple_runtime.records import Record, TaskKey


class Known(RecordLookup):
    """Answers each question by one record, and remembers who asked, and for how long ago last."""

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
