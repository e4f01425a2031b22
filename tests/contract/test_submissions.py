"""What anyone may send, against the codec: the "Bad input" that shows in a body."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from maniple import codec
from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import MAX_BODY, MAX_TASKS, Task
from maniple_cli.contract.schemas import message_schemas

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=5) | st.dictionaries(st.text(max_size=10), children, max_size=5)
    ),
    max_leaves=20,
)
task_like = st.fixed_dictionaries(
    {},
    optional={
        "capability": st.sampled_from(["text.stats", "Bad", "", "a" * 129]) | json_values,
        "payload": json_values,
        "id": st.text(max_size=200) | json_values,
        "labels": st.dictionaries(st.text(max_size=70), st.text(max_size=10) | json_values),
        "max_attempts": st.integers() | json_values,
        "ttl": st.floats() | json_values,
        "deadline": st.datetimes().map(str) | json_values,
        "sealed": json_values,
        "paylod": json_values,
    },
)


def refusals(body: bytes) -> list[ErrorCode | None]:
    """Return the code of each member, None for a task."""
    try:
        members = codec.decode_submission(body)
    except InvalidMessage as error:
        return [error.code]
    return [m.code if isinstance(m, InvalidMessage) else None for m in members]


UNDECODABLE = {
    "nothing": b"",
    "not JSON": b"task!",
    "half a task": b'{"payload": 1',
    "two tasks": b"{}{}",
    "non-UTF-8 bytes": b'{"payload": "\xff\xfe"}',
    "UTF-16": '{"payload": 1}'.encode("utf-16"),
    "NaN": b'{"payload": NaN}',
    "Infinity": b'{"payload": [-Infinity]}',
    "20,000 nested brackets": b'{"payload": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "20,000 open brackets": b"[" * 20_000,
    "20,000 nested objects": b'{"payload":' * 20_000 + b"1" + b"}" * 20_000,
    "101 deep": b'{"payload": ' + b"[" * 100 + b"]" * 100 + b"}",
    "compressed": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xabV*H\xac",
}
INVALID = {
    "a number": b"3",
    "a string": b'"text.stats"',
    "null": b"null",
    "an empty array": b"[]",
    "an array in an array": b"[[]]",
    "capability with bad characters": b'{"capability": "Text Stats"}',
    "capability with a newline": b'{"capability": "text.stats\\n"}',
    "capability too long": json.dumps({"capability": "a" * 129}).encode(),
    "capability of another type": b'{"capability": 3}',
    "id with a newline": b'{"id": "a\\n"}',
    "id with a control character": b'{"id": "a\\u0000b"}',
    "empty tenant": b'{"tenant": ""}',
    "label of another type": b'{"labels": {"a": 1}}',
    "too many labels": json.dumps({"labels": {str(n): "" for n in range(33)}}).encode(),
    "no attempts": b'{"max_attempts": 0}',
    "negative timeout": b'{"timeout": -1}',
    "ttl over a week": b'{"ttl": 1e9}',
    "deadline without an offset": b'{"deadline": "2030-01-01T00:00:00"}',
    "deadline that is none": b'{"deadline": "tomorrow"}',
}


@pytest.mark.parametrize("body", UNDECODABLE.values(), ids=list(UNDECODABLE))
def test_what_cannot_be_decoded_is_said_so(body: bytes) -> None:
    assert refusals(body) == [ErrorCode.UNDECODABLE]


@pytest.mark.parametrize("body", INVALID.values(), ids=list(INVALID))
def test_what_is_no_task_is_said_so(body: bytes) -> None:
    assert refusals(body) == [ErrorCode.INVALID_TASK]


def test_an_unknown_field_is_named() -> None:
    (refused,) = codec.decode_submission(b'{"paylod": 1}')
    assert isinstance(refused, InvalidMessage)
    assert (refused.code, refused.detail) == (ErrorCode.UNKNOWN_FIELD, {"field": "paylod"})


def test_a_body_over_the_limit_is_refused_before_it_is_decoded() -> None:
    assert refusals(b"x" * (MAX_BODY + 1)) == [ErrorCode.PAYLOAD_TOO_LARGE]
    fits = b'{"payload":"' + b"x" * (MAX_BODY - 14) + b'"}'
    assert (len(fits), refusals(fits)) == (MAX_BODY, [None])


def test_an_array_may_have_a_thousand_tasks_and_no_more() -> None:
    assert refusals(b"[" + b",".join([b"{}"] * MAX_TASKS) + b"]") == [None] * MAX_TASKS
    assert refusals(b"[" + b",".join([b"{}"] * (MAX_TASKS + 1)) + b"]") == [ErrorCode.INVALID_TASK]


def test_a_bad_member_does_not_take_the_others_with_it() -> None:
    bad = [b'{"x":1}', b'{"ttl":"a"}', b"7", b'{"payload":' + b"[" * 100 + b"]" * 100 + b"}"]
    body = b"[{}," + b",".join(bad) + b',{"payload":2}]'
    assert refusals(body) == [
        None,
        ErrorCode.UNKNOWN_FIELD,
        ErrorCode.INVALID_TASK,
        ErrorCode.INVALID_TASK,
        ErrorCode.UNDECODABLE,
        None,
    ]
    members = codec.decode_submission(body)
    kept = [member.body for member in members if isinstance(member, InvalidMessage)]
    assert kept[:3] == bad[:3]


def test_brackets_in_strings_are_no_depth() -> None:
    payload = '"' + "[" * 500 + '\\"' + "{" * 500 + '"'
    assert refusals(f'{{"payload": {payload}}}'.encode()) == [None]


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_a_refusal(body: bytes) -> None:
    assert refusals(body)


@given(json_values | st.lists(task_like | json_values, max_size=5))
def test_arbitrary_json_raises_nothing_but_a_refusal(value: Any) -> None:
    body = json.dumps(value, allow_nan=True).encode("utf-8", "replace")
    assert refusals(body)


@given(task_like)
def test_what_the_schema_refuses_the_codec_refuses_too(value: dict[str, Any]) -> None:
    """The other way round need not hold: a schema cannot say everything."""
    body = json.dumps(value, allow_nan=True).encode()
    if refusals(body) != [None]:
        return
    task = codec.decode_submission(body)[0]
    assert isinstance(task, Task)
    if bytes(task.sealed) != b"null":
        return  # refused by the dispatcher, as not_supported
    Draft202012Validator(message_schemas()["Task"]).validate(json.loads(body))
