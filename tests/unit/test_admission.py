"""Admission: which submissions become tasks; pure, total, and the same when decided twice."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from maniple.codec import decode_submission, encode
from maniple.errors import ErrorCode, InvalidMessage
from maniple.identifiers import member_id
from maniple.messages import REPEATED_HEADER, Envelope, RetryPlan, Task
from maniple_dispatcher.ingress.admission import (
    acceptance,
    admit,
    capability_of,
    identity,
    trace_of,
)
from maniple_dispatcher.ingress.arrival import (
    Arrival,
    RawArrival,
    Redelivery,
    check_arrival,
    readable,
)
from maniple_dispatcher.ingress.refusal import Refused, refusal_of
from maniple_policies import PolicySet, Resolved, parse_policy

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NEW_TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-00"
FOREIGN = "\N{REPLACEMENT CHARACTER}"
PROCESS = b"\x83\x58\x76\x00\x0ereply@70306884" + bytes(range(12))


def token(process: bytes, key: str = "AAECAwQFBgcICQoLDA0ODw==") -> str:
    """Return an address of direct reply-to as brokers make it of a process id."""
    return f"amq.rabbitmq.reply-to.{b64encode(process).decode()}.{key}"


def raw(**changes: Any) -> RawArrival:
    fields: dict[str, Any] = dict.fromkeys(RawArrival.__struct_fields__)
    return RawArrival(**fields | {"routing_key": "text.stats", "headers": {}} | changes)


def arrival(**changes: Any) -> Arrival:
    fields: dict[str, Any] = {"routing_key": "text.stats", "received_at": NOW, "sent_at": NOW}
    return Arrival(**fields | changes)


def decide(task: Task, come: Arrival, position: int | None = None) -> Envelope:
    return admit(
        task,
        come,
        task_id=identity(task.id, come, position, lambda: "new"),
        capability=capability_of(task, come.routing_key),
        decided=Resolved(timeout=7.0, attempts=3, versions={"retry/x": 2}),
        traceparent=trace_of(task, come, lambda: NEW_TRACE),
    )


def code_of(task: Task, come: Arrival | None = None) -> ErrorCode:
    with pytest.raises(InvalidMessage) as refused:
        decide(task, come or arrival())
    assert refused.value.message
    return refused.value.code


def test_what_a_task_says_goes_before_the_policies() -> None:
    said = decide(Task(timeout=1.5, max_attempts=9), arrival())
    silent = decide(Task(), arrival())
    assert (said.timeout, said.max_attempts) == (1.5, 9)
    assert (silent.timeout, silent.max_attempts) == (7.0, 3)
    assert silent.policies == {"retry/x": 2}


def ceilings(over: str) -> Resolved:
    """What two documents say that are ceilings: 1 s up to 2 s, and 1 attempt up to 3."""
    documents = [
        {"kind": "timeout", "name": "t", "version": 4,
         "spec": {"seconds": {"default": 1, "max": 2, "over": over}}},
        {"kind": "retry", "name": "r", "version": 5,
         "spec": {"attempts": {"default": 1, "max": 3, "over": over}}},
    ]  # fmt: skip
    return PolicySet(map(parse_policy, documents)).resolve("text.stats", "default", {})


def under(decided: Resolved, task: Task, **come: Any) -> Envelope:
    more = {"task_id": "t", "capability": "text.stats", "traceparent": NEW_TRACE}
    return admit(task, arrival(**come), decided=decided, **more)


@pytest.mark.parametrize("over", ["clamp", "reject"])
def test_below_a_ceiling_a_task_chooses_and_without_a_choice_has_the_default(over: str) -> None:
    said = under(ceilings(over), Task(timeout=2.0, max_attempts=3))
    silent = under(ceilings(over), Task())
    assert (said.timeout, said.max_attempts, said.clamped) == (2.0, 3, {})
    assert (silent.timeout, silent.max_attempts, silent.clamped) == (1.0, 1, {})


def test_above_a_ceiling_that_clamps_a_task_has_the_most_and_its_record_says_so() -> None:
    task = under(ceilings("clamp"), Task(timeout=5.0, max_attempts=4))
    assert (task.timeout, task.max_attempts) == (2.0, 3)
    record = acceptance(task)
    assert record.clamped == {"timeout": 5.0, "max_attempts": 4}
    assert record.policies == {"timeout/t": 4, "retry/r": 5}


@pytest.mark.parametrize("asked", [Task(timeout=2.1), Task(max_attempts=4)])
def test_above_a_ceiling_that_refuses_a_task_is_refused_by_that_policy(asked: Task) -> None:
    with pytest.raises(InvalidMessage, match="at most") as refused:
        under(ceilings("reject"), asked)
    assert refused.value.code is ErrorCode.FORBIDDEN
    assert refused.value.detail is not None
    assert refused.value.detail["policy"] in {"timeout/t", "retry/r"}


def lives(over: str = "clamp") -> Resolved:
    """What a document says that is a ceiling: an hour, up to a day."""
    spec = {"seconds": {"default": 3600, "max": 86_400, "over": over}}
    document = {"kind": "ttl", "name": "t", "version": 6, "spec": spec}
    return PolicySet([parse_policy(document)]).resolve("text.stats", "default", {})


DAY = timedelta(days=1)


def test_a_task_that_does_not_say_lives_as_long_as_its_policy_says() -> None:
    assert under(lives(), Task()).deadline == NOW + timedelta(hours=1)
    assert under(lives(), Task(ttl=7200)).deadline == NOW + timedelta(hours=2)
    assert under(lives(), Task(deadline=NOW + DAY)).deadline == NOW + DAY
    assert under(lives(), Task(ttl=7200)).clamped == {}


@pytest.mark.parametrize("asked", [Task(ttl=2 * 86_400), Task(deadline=NOW + 2 * DAY)])
def test_no_task_lives_longer_than_its_policy_allows(asked: Task) -> None:
    task = under(lives(), asked)
    assert (task.deadline, task.clamped) == (NOW + DAY, {"ttl": 2 * 86_400.0})
    assert task.policies == {"ttl/t": 6}
    with pytest.raises(InvalidMessage, match="policy ttl/t allows at most 86400") as refused:
        under(lives("reject"), asked)
    assert refused.value.code is ErrorCode.FORBIDDEN
    again = under(lives("reject"), asked, before=Redelivery.SAID)
    assert (again.deadline, again.clamped) == (NOW + DAY, {"ttl": 2 * 86_400.0})


AGAIN: tuple[dict[str, Any], ...] = (
    {"redelivered": True},
    {"headers": {REPEATED_HEADER: "true"}},
)


@pytest.mark.parametrize("properties", AGAIN, ids=str)
def test_what_may_have_been_admitted_before_is_not_refused_by_a_ceiling(
    properties: dict[str, Any],
) -> None:
    come = check_arrival(raw(**properties), NOW)
    task = under(ceilings("reject"), Task(timeout=5.0), before=come.before)
    assert (task.timeout, task.clamped) == (2.0, {"timeout": 5.0})


def test_what_a_dispatcher_had_is_no_bad_input_when_its_deadline_has_passed() -> None:
    past = NOW - timedelta(seconds=5)
    come = check_arrival(raw(redelivered=True), NOW)
    assert decide(Task(deadline=past), come).deadline == past


def test_a_deadline_that_has_passed_is_bad_input_whatever_its_sender_says_of_it() -> None:
    come = check_arrival(raw(headers={REPEATED_HEADER: "true"}), NOW)
    with pytest.raises(InvalidMessage) as caught:
        decide(Task(deadline=NOW - timedelta(seconds=5)), come)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED


def test_the_retry_plan_is_the_policies() -> None:
    plan = RetryPlan(base=0.5)
    envelope = admit(
        Task(),
        arrival(),
        task_id="1",
        capability="text.stats",
        decided=Resolved(retry=plan),
        traceparent=TRACE,
    )
    assert envelope.retry is plan


def test_the_routing_key_names_the_capability() -> None:
    assert decide(Task(), arrival()).capability == "text.stats"
    assert decide(Task(), arrival()).lane == "text.stats"
    batch = arrival(routing_key="batch")
    assert decide(Task(capability="text.stats"), batch).capability == "text.stats"
    assert code_of(Task(), batch) is ErrorCode.INVALID_TASK
    assert code_of(Task(capability="other"), arrival()) is ErrorCode.INVALID_TASK


@pytest.mark.parametrize(
    "name", ["", "Text", "a..b", ".a", "a.", "a b", "a\n", "ü", "a#", "x" * 129, "text.suspect"]
)
def test_a_capability_is_a_dotted_lower_case_name(name: str) -> None:
    assert code_of(Task(), arrival(routing_key=name)) is ErrorCode.INVALID_TASK


def test_a_task_has_a_day_unless_it_says_otherwise() -> None:
    assert decide(Task(), arrival()).deadline == NOW + timedelta(days=1)
    assert decide(Task(ttl=60), arrival()).deadline == NOW + timedelta(minutes=1)
    later = NOW + timedelta(days=6, hours=23)
    assert decide(Task(deadline=later), arrival()).deadline == later


@pytest.mark.parametrize("wrong", [-3600, -120, 120])
def test_a_ttl_is_what_it_says_however_wrong_the_clock_of_the_sender_is(wrong: int) -> None:
    sent = NOW + timedelta(seconds=wrong)
    come = check_arrival(raw(timestamp=sent), NOW)
    taken = decide(Task(ttl=60), come)
    assert taken.deadline == NOW + timedelta(seconds=60)
    assert taken.submitted_at == min(sent, NOW)


def test_a_deadline_lies_within_a_week_from_now_and_stands_alone() -> None:
    assert code_of(Task(deadline=NOW)) is ErrorCode.DEADLINE_EXCEEDED
    assert code_of(Task(deadline=NOW - timedelta(1))) is ErrorCode.DEADLINE_EXCEEDED
    assert code_of(Task(deadline=NOW + timedelta(days=7, seconds=1))) is ErrorCode.INVALID_TASK
    assert code_of(Task(deadline=NOW + timedelta(1), ttl=5)) is ErrorCode.INVALID_TASK


@pytest.mark.parametrize("name", ["not_before", "idempotency_key", "sealed"])
def test_reserved_fields_are_not_supported_yet(name: str) -> None:
    given: dict[str, Any] = {name: Raw(b'"x"')}
    silent: dict[str, Any] = {name: Raw(b" null ")}
    assert code_of(Task(**given)) is ErrorCode.NOT_SUPPORTED
    assert decide(Task(**silent), arrival()).capability == "text.stats"


def test_a_task_is_known_by_its_id_else_by_its_message() -> None:
    message = "0192f0c1-2b3c-7d4e-8f00-112233445566"
    come = arrival(message_id=message)
    assert decide(Task(id="mine"), come).id == "mine"
    assert decide(Task(), come).id == message
    assert decide(Task(), come, position=3).id == member_id(message, 3)
    assert decide(Task(), arrival()).id == "new"
    long = [decide(Task(), arrival(message_id="x" * 254 + end)).id for end in "ab"]
    assert long[0] != long[1]
    assert max(map(len, long)) <= 128


def test_the_senders_clock_is_believed_when_it_is_behind_by_at_most_a_week() -> None:
    hour, days = timedelta(hours=1), timedelta(days=8)
    naive = (NOW - hour).replace(tzinfo=None)
    for told, believed in [
        (NOW - hour, NOW - hour),
        (NOW + hour, NOW),
        (NOW - days, NOW),
        (naive, NOW),
        (None, NOW),
    ]:
        assert check_arrival(raw(timestamp=told), NOW).sent_at == believed


def test_a_malformed_trace_begins_a_new_one() -> None:
    in_header = arrival(traceparent=TRACE)
    assert trace_of(Task(), in_header, lambda: NEW_TRACE) == TRACE
    for bad in ("nonsense", TRACE.upper(), TRACE + "-x", "00-" + "0" * 32 + TRACE[35:]):
        assert trace_of(Task(traceparent=bad), in_header, lambda: NEW_TRACE) == NEW_TRACE


@pytest.mark.parametrize(
    ("reply_to", "allowed"),
    [
        ("my.queue", True),
        ("amq.rabbitmq.reply-to", True),
        (token(PROCESS), True),
        (token(PROCESS.replace(b"\x76\x00", b"\x77")), True),
        (token(PROCESS + b"x"), False),
        (token(PROCESS[:-1]), False),
        (token(PROCESS.replace(b"\x76\x00\x0e", b"\x76\x00\x0f")), False),
        (token(PROCESS.replace(b"reply@", b"other@")), False),
        (token(b"\x83\x68\x00"), False),
        (token(PROCESS, "short=="), False),
        (token(PROCESS) + ".more", False),
        ("amq.rabbitmq.reply-to.g1h2.abc==", False),
        ("amq.rabbitmq.reply-to.garbage.x", False),
        ("amq.rabbitmq.reply-to.", False),
        ("maniple.replies.client-7", True),
        ("maniple.submit", False),
        ("maniple.", False),
        ("two\nlines", False),
        ("maniple.replies.two\nlines", False),
        (FOREIGN * 200, False),
        ("maniple.replies." + FOREIGN * 200, False),
    ],
)
def test_replies_go_to_queues_that_are_the_senders_own(reply_to: str, allowed: bool) -> None:
    if allowed:
        assert check_arrival(raw(reply_to=reply_to), NOW).reply_to == reply_to
        return
    with pytest.raises(InvalidMessage) as refused:
        check_arrival(raw(reply_to=reply_to), NOW)
    assert refused.value.code is ErrorCode.FORBIDDEN


@pytest.mark.parametrize("name", ["message_id", "correlation_id"])
def test_ids_that_are_not_utf8_are_refused(name: str) -> None:
    # They are read with a character for each bad byte, and may not fit into a property again.
    with pytest.raises(InvalidMessage, match=name) as refused:
        check_arrival(raw(**{name: FOREIGN * 255}), NOW)
    assert refused.value.code is ErrorCode.UNDECODABLE
    assert readable(FOREIGN) is None
    assert readable("fine") == "fine"


def test_other_properties_that_refuse_the_whole_message() -> None:
    refusals: list[tuple[dict[str, Any], ErrorCode]] = [
        ({"content_encoding": "gzip"}, ErrorCode.UNDECODABLE),
        ({"message_type": "maniple.result.v1"}, ErrorCode.INVALID_TASK),
        ({"headers": {"x": 5}}, ErrorCode.INVALID_TASK),
    ]
    for bad, code in refusals:
        with pytest.raises(InvalidMessage) as refused:
            check_arrival(raw(**bad), NOW)
        assert refused.value.code is code
    fine: dict[str, Any] = {
        "headers": {"x-death": [{}], "mine": "yes"},
        "message_type": "order.placed",
    }
    assert check_arrival(raw(**fine), NOW).routing_key == "text.stats"


PLAIN = ("utf-8", "UTF-8", "identity", "Identity", "utf8", "US-ASCII", "binary", "8bit", " utf-8 ")


@pytest.mark.parametrize("encoding", PLAIN)
def test_an_encoding_that_changes_no_byte_is_taken_as_none(encoding: str) -> None:
    assert check_arrival(raw(content_encoding=encoding), NOW) == check_arrival(raw(), NOW)


@pytest.mark.parametrize(
    "encoding", ["gzip", "GZIP", "deflate", "utf-16", "latin-1", "gzip, utf-8"]
)
def test_an_encoding_that_we_cannot_read_is_refused_by_name(encoding: str) -> None:
    with pytest.raises(InvalidMessage, match=encoding) as refused:
        check_arrival(raw(content_encoding=encoding), NOW)
    assert refused.value.code is ErrorCode.UNDECODABLE


SHORT = st.none() | st.text(max_size=300)
TIMES = st.datetimes(
    timezones=st.sampled_from(
        [UTC, timezone(timedelta(hours=-23, minutes=-59)), timezone(timedelta(hours=23))]
    )
)
TASKS = st.builds(
    Task,
    capability=SHORT,
    id=SHORT,
    deadline=st.none() | TIMES,
    ttl=st.none() | st.floats(0.001, 7 * 86400),
    timeout=st.none() | st.floats(0.001, 1000),
    traceparent=SHORT,
    sealed=st.sampled_from([Raw(b"null"), Raw(b"1"), Raw(b"")]),
)
RAW_ARRIVALS = st.builds(
    RawArrival,
    routing_key=st.text(max_size=300) | st.just("text.stats"),
    message_id=SHORT,
    message_type=SHORT,
    reply_to=SHORT,
    correlation_id=SHORT,
    content_encoding=st.none() | st.sampled_from(["gzip", "UTF-8", "x" * 300]),
    timestamp=st.none() | st.datetimes() | TIMES,
    headers=st.dictionaries(st.text(max_size=20), st.none() | st.text() | st.integers()),
)


def outcome(task: Task, come: RawArrival) -> Envelope | tuple[ErrorCode, str]:
    try:
        return decide(task, check_arrival(come, NOW))
    except InvalidMessage as error:
        refused = Refused(error, task.id, task.tenant, task.capability)
        assert encode(refusal_of(refused, arrival(), lambda: "new").answer)
        return error.code, error.message


@given(task=TASKS, come=RAW_ARRIVALS)
def test_anything_is_admitted_or_refused_with_a_code_and_twice_the_same(
    task: Task, come: RawArrival
) -> None:
    first = outcome(task, come)
    assert outcome(task, come) == first
    if isinstance(first, Envelope):
        assert first.submitted_at <= NOW
        assert first.deadline > first.submitted_at
        assert first.capability == (task.capability or come.routing_key)


@given(st.integers(1, 20), st.text(min_size=1, max_size=60))
def test_an_array_sent_again_gets_the_same_ids_and_no_two_alike(size: int, message: str) -> None:
    members = decode_submission(b"[" + b",".join([b"{}"] * size) + b"]")
    come = arrival(message_id=message)
    tasks = [member for member in members if isinstance(member, Task)]
    ids = [decide(task, come, position).id for position, task in enumerate(tasks)]
    assert ids == [decide(task, come, position).id for position, task in enumerate(tasks)]
    assert len(set(ids)) == size
