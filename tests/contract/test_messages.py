"""What is on the wire, byte for byte: a change here breaks programs that are already running."""

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from maniple import codec
from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import (
    NULL,
    Envelope,
    Failure,
    Progress,
    Result,
    RetryPlan,
    Status,
    Task,
    TaskAccepted,
)

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

names = st.text(min_size=1, max_size=20)
moments = st.datetimes(timezones=st.just(UTC))
raws = st.sampled_from([b"null", b"1", b'"\xc3\xbc"', b'{"a":[1,{}]}']).map(Raw)
labels = st.dictionaries(names, names, max_size=3)
envelopes = st.builds(
    Envelope,
    id=names,
    capability=names,
    submitted_at=moments,
    deadline=moments,
    lane=names,
    payload=raws,
    labels=labels,
    affinity=st.none() | names,
    max_attempts=st.none() | st.integers(1, 9),
    timeout=st.none() | st.floats(0.1, 100),
    retry=st.none() | st.builds(RetryPlan, codes=st.just((ErrorCode.TIMEOUT,))),
    reply_to=st.none() | names,
    attempt=st.integers(1, 9),
    lost=st.integers(0, 9),
    accepted=st.booleans(),
    policies=st.dictionaries(names, st.integers(0, 99), max_size=3),
)
results = st.builds(
    Result,
    id=names,
    capability=names,
    status=st.sampled_from(Status),
    tenant=names,
    output=raws,
    error=st.none()
    | st.builds(
        Failure,
        code=st.sampled_from(ErrorCode),
        message=st.text(max_size=20),
        retry_after=st.none() | st.floats(0, 100),
        detail=st.none() | st.dictionaries(names, st.integers(), max_size=2),
    ),
    agent=st.none() | names,
    started_at=st.none() | moments,
)


@given(st.lists(envelopes, max_size=4))
def test_envelopes_survive_the_wire(bundle: list[Envelope]) -> None:
    assert codec.decode_envelopes(codec.encode(bundle)) == bundle
    assert codec.decode_envelopes(codec.join([codec.encode(e) for e in bundle])) == bundle


@given(st.lists(results, min_size=1, max_size=4))
def test_results_survive_the_wire_in_bundles_and_alone(bundle: list[Result]) -> None:
    assert codec.decode_results(codec.encode(bundle)) == bundle
    assert codec.decode_results(codec.encode(bundle[0])) == bundle[:1]


@given(st.binary(max_size=200))
def test_arbitrary_bytes_between_services_raise_nothing_but_a_refusal(body: bytes) -> None:
    for decode in (codec.decode_envelopes, codec.decode_results, _progress):
        with contextlib.suppress(InvalidMessage):
            assert isinstance(decode(body), list)


def _progress(body: bytes) -> list[Progress]:
    return codec.decode_list(body, Progress)


def test_fields_of_a_newer_release_are_passed_over() -> None:
    newer = b'[{"id":"1","capability":"a","status":"succeeded","colour":"blue"}]'
    assert codec.decode_results(newer)[0].status is Status.SUCCEEDED
    body = codec.encode([Envelope(id="1", capability="a", submitted_at=AT, deadline=AT)])
    assert codec.decode_envelopes(body.replace(b'{"id"', b'{"colour":"blue","id"'))[0].id == "1"


GOLDEN = {
    "task": (
        Task(capability="text.stats", payload=Raw(b'{"a":1}'), id="1", labels={"k": "v"}, ttl=5.0),
        b'{"capability":"text.stats","payload":{"a":1},"id":"1","labels":{"k":"v"},"ttl":5.0}',
    ),
    "bare task": (Task(payload=NULL), b"{}"),
    "envelope": (
        Envelope(id="1", capability="a", submitted_at=AT, deadline=AT, lane="a", attempt=2),
        (
            b'{"id":"1","capability":"a","submitted_at":"2026-01-02T03:04:05.678901Z",'
            b'"deadline":"2026-01-02T03:04:05.678901Z","attempt":2,"lane":"a"}'
        ),
    ),
    "result": (
        Result(
            id="1",
            capability="a",
            status=Status.FAILED,
            error=Failure(code=ErrorCode.TIMEOUT, message="m", retry_after=1.5),
        ),
        (
            b'{"id":"1","capability":"a","status":"failed","tenant":"default","output":null,'
            b'"error":{"code":"timeout","message":"m","retry_after":1.5,"detail":null},"attempt":1,'
            b'"lost":0,"agent":null,"lane":null,"policies":{},"submitted_at":null,'
            b'"dispatched_at":null,"started_at":null,"finished_at":null,"traceparent":null}'
        ),
    ),
    "accepted": (
        TaskAccepted(
            id="1", capability="a", lane="a", submitted_at=AT, dispatched_at=AT, deadline=AT
        ),
        (
            b'{"id":"1","capability":"a","lane":"a","submitted_at":"2026-01-02T03:04:05.678901Z",'
            b'"dispatched_at":"2026-01-02T03:04:05.678901Z",'
            b'"deadline":"2026-01-02T03:04:05.678901Z"}'
        ),
    ),
    "progress": (
        Progress(id="1", capability="a", attempt=1, value=Raw(b"0.5"), at=AT),
        (
            b'{"id":"1","capability":"a","attempt":1,"value":0.5,'
            b'"at":"2026-01-02T03:04:05.678901Z","tenant":"default"}'
        ),
    ),
}


@pytest.mark.parametrize("name", list(GOLDEN))
def test_messages_look_on_the_wire_as_they_always_did(name: str) -> None:
    message, wire = GOLDEN[name]
    assert codec.encode(message) == wire


def test_the_set_of_error_codes_is_closed() -> None:
    assert " ".join(ErrorCode) == (
        "invalid_task unknown_field not_supported payload_too_large undecodable unauthorized "
        "forbidden rate_limited circuit_open overloaded no_agent deadline_exceeded timeout "
        "handler_error handler_crashed invalid_output agent_lost cancelled"
    )
