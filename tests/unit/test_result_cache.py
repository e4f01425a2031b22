"""`maniple_dispatcher.result_cache`: what a fallback may give in place of running a task."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import UNSET, Raw

from maniple.codec import encode
from maniple.messages import RESULTS_TYPE, RUNNING_TYPE, Envelope, Result, Status
from maniple_dispatcher import result_cache
from maniple_dispatcher.result_cache import ENTRY, ResultCache, digest_of
from maniple_dispatcher.result_learning import decode_good

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAYLOAD = Raw(b'{"n":1}')


def result(output: bytes = b"1", **fields: Any) -> Result:
    given = {"payload_digest": digest_of(PAYLOAD), "agent": "a", "finished_at": NOW, **fields}
    return Result(
        id="t",
        capability="c",
        output=Raw(output),
        **{"status": Status.SUCCEEDED, **given},
    )


def envelope(payload: Raw = PAYLOAD, **fields: Any) -> Envelope:
    given: dict[str, Any] = {"capability": "c", "payload_digest": digest_of(payload), **fields}
    return Envelope(id="u", submitted_at=NOW, deadline=NOW, **given)


def learned(*results: Result) -> ResultCache:
    good = ResultCache()
    for one in results:
        good.learn_result(one)
    return good


def test_the_last_good_output_for_the_same_payload_is_found() -> None:
    good = learned(result(b"1"), result(b"2"))
    assert good.find(envelope(), NOW) == Raw(b"2")
    assert len(good) == 1


@pytest.mark.parametrize(
    "other",
    [
        envelope(Raw(b'{"n":2}')),
        envelope(tenant="acme"),
        envelope(capability="d"),
        envelope(payload_digest=None),
    ],
)
def test_another_payload_tenant_or_capability_gets_nothing(other: Envelope) -> None:
    assert learned(result()).find(other, NOW) is None


def test_what_is_too_old_is_not_given() -> None:
    assert learned(result()).find(envelope(), NOW + timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"status": Status.FAILED},
        {"agent": None},  # made by a fallback, which would keep it young for ever
        {"payload_digest": UNSET},
    ],
)
def test_what_no_agent_did_well_is_not_learned(fields: dict[str, Any]) -> None:
    assert len(learned(result(**fields))) == 0


def test_a_failure_takes_nothing_from_what_was_good() -> None:
    good = learned(result(b"1"), result(status=Status.FAILED))
    assert good.find(envelope(), NOW) == Raw(b"1")


def test_memory_is_bounded_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_cache, "MAX_BYTES", 3 * (ENTRY + 10))
    payloads = [Raw(b"%d" % n) for n in range(5)]
    good = learned(
        *(result(b"0123456789", payload_digest=digest_of(p)) for p in payloads[:3]),
        result(b"9876543210", payload_digest=digest_of(payloads[0])),  # is now the youngest
        *(result(b"0123456789", payload_digest=digest_of(p)) for p in payloads[3:]),
    )
    found = [good.find(envelope(p), NOW) is not None for p in payloads]
    assert found == [True, False, False, True, True]


def test_only_messages_with_good_results_are_decoded() -> None:
    body = encode([result(), result(payload_digest=UNSET)])
    assert len(decode_good(RESULTS_TYPE, body, 0)) == 2
    assert decode_good(RESULTS_TYPE, encode([result(payload_digest=UNSET)]), 0) == []
    assert decode_good(RUNNING_TYPE, body, 0) == []


def test_a_result_that_is_told_late_replaces_no_later_one() -> None:
    good = ResultCache()
    good.learn_result(result(b"2"))
    good.learn_result(result(b"1", finished_at=NOW - timedelta(seconds=1)))
    found = good.find(envelope(), NOW - timedelta(seconds=60))
    assert found is not None
    assert bytes(found) == b"2"


def test_a_time_without_a_zone_is_no_agents() -> None:
    good = ResultCache()
    good.learn_result(result(finished_at=NOW.replace(tzinfo=None)))
    assert len(good) == 0
