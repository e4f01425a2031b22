"""Property tests: whatever bytes arrive, every message is answered and the dispatchers go on."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outsider import Outsider

FIELDS = (
    "capability", "payload", "id", "tenant", "labels", "affinity", "max_attempts", "timeout",
    "deadline", "ttl", "traceparent", "not_before", "idempotency_key", "sealed", "colour",
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ALMOST_TASKS = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6)
BODIES = (
    st.binary(max_size=300)
    | JSON.map(json.dumps).map(str.encode)
    | ALMOST_TASKS.map(json.dumps).map(str.encode)
    | st.lists(ALMOST_TASKS, max_size=5).map(json.dumps).map(str.encode)
)
SHARED_CLIENT = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@SHARED_CLIENT
@given(body=BODIES, batch=st.booleans())
def test_any_bytes_are_answered(outsider: Outsider, body: bytes, batch: bool) -> None:
    key = "batch" if batch else "maniple.echo"
    correlation_id = outsider.send(key, body)
    result = outsider.wait(correlation_id)[0]
    assert result["status"] in {"succeeded", "rejected", "failed", "expired"}
    assert (result["status"] == "succeeded") == (result["error"] is None)
    if result["status"] == "rejected":
        assert result["error"]["message"]


def test_after_all_of_that_a_task_still_runs(outsider: Outsider) -> None:
    assert outsider.ask("maniple.echo", {"payload": "here"})["output"] == "here"
