"""What senders are told of bytes that are no task: what they are, not how a decoder tripped."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress_with_fakes import Ingress
from maniple.codec import decode_submission, decode_value
from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import Task

TASK = '{"payload": 1}'
BOM = b"\xef\xbb\xbf"


def said(body: bytes) -> str:
    """Return why a submission, or its only member, is refused."""
    try:
        (member,) = decode_submission(body)
    except InvalidMessage as error:
        return error.message
    assert isinstance(member, InvalidMessage), body
    return member.message


SURROGATES = {
    b'{"payload": "\\ud800"}': "\\ud800",
    b'{"payload": "\\ud800 and then some more"}': "\\ud800",
    b'{"payload": "\\udc00\\ud800"}': "\\udc00",
    b'{"payload": {"\\uDBFF": 1}}': "\\uDBFF",
    b'{"tenant": "a\\\\\\ud83d"}': "\\ud83d",
    b'[{"payload": "\\ud800\\u0041, which is an A"}]': "\\ud800",
    b'{"payload": "\xed\xa0\x80"}': "byte 13",
}


@pytest.mark.parametrize("body", SURROGATES)
def test_half_of_a_surrogate_pair_is_told_as_such(body: bytes) -> None:
    assert "half of a surrogate pair" in said(body)
    assert SURROGATES[body] in said(body)


KINDS = {
    b"null": "null",
    b" null ": "null",
    b'"text.stats"': "a string",
    b"-5": "a number",
    b"true": "true",
    b"[null]": "null",
    b"[false]": "false",
    b"[[]]": "an array",
    b'["a"]': "a string",
}


@pytest.mark.parametrize("body", KINDS)
def test_what_is_no_object_is_told_as_what_it_is(body: bytes) -> None:
    assert said(body).endswith(f"this is {KINDS[body]}")


FOREIGN = {
    TASK.encode("utf-16"): "UTF-16",
    TASK.encode("utf-16-le"): "UTF-16",
    f"[{TASK}]".encode("utf-16-be"): "UTF-16",
    TASK.encode("utf-32"): "UTF-32",
    f"[{TASK}]".encode("utf-32-le"): "UTF-32",
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03": "gzip",
    b"\x28\xb5\x2f\xfd\x04\x00": "zstd",
    b"\x78\x9c\xab\x56": "zlib",
    b"": "empty",
    b"\r\n": "empty",
    b'{"payload": NaN}': "NaN is no JSON",
    b'{"payload": -Infinity}': "-Infinity is no JSON",
    TASK.encode() * 2: "more than one JSON value",
    f"{TASK}\n{TASK}".encode(): "more than one JSON value",
    b'{"payload": "abc': "cut off",
    b'{"payload": "\\\\ud800': "cut off",
    BOM * 2 + TASK.encode(): "a byte order mark stands within (byte 0): drop it",
    b"[" + BOM + TASK.encode() + b"]": "a byte order mark stands within (byte 1): drop it",
    TASK.encode() + BOM + TASK.encode(): "a byte order mark stands within (byte 14): drop it",
    b'{"payload": ' + BOM + b"1}": "a byte order mark stands within (byte 12): drop it",
    b'{"payload": "caf\xe9"}': "not UTF-8: 0xe9 (byte 16)",
}


@pytest.mark.parametrize("body", FOREIGN)
def test_what_is_no_json_is_told_as_what_it_is(body: bytes) -> None:
    assert FOREIGN[body] in said(body)


def test_a_payload_that_is_no_json_is_told_in_the_same_words() -> None:
    with pytest.raises(InvalidMessage, match="half of a surrogate pair") as refused:
        decode_value(b'"\\ud800"')
    assert refused.value.code is ErrorCode.UNDECODABLE


@pytest.mark.parametrize("body", [TASK, f"[{TASK}]", f" \r\n{TASK}"])
def test_a_byte_order_mark_before_a_submission_is_passed_over(body: str) -> None:
    (task,) = decode_submission(BOM + body.encode())
    assert isinstance(task, Task)
    assert bytes(task.payload) == b"1"


async def test_members_behind_a_byte_order_mark_have_the_ids_of_their_positions() -> None:
    plain, marked = Ingress(), Ingress()
    body = json.dumps([{"payload": 1}, {"colour": "red"}, {"payload": 2}]).encode()
    await plain.take(body)
    await marked.take(BOM + body)
    assert marked.admitted == plain.admitted
    assert [one.id for one in marked.answered] == [one.id for one in plain.answered]


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_of_anything_that_is_no_task_something_is_said(head: bytes, tail: bytes) -> None:
    for body in (head, b'{"payload": "\\u' + tail, b'["\\ud8' + tail, BOM + b'{"payload": ' + head):
        refused: InvalidMessage | None = None
        try:
            decode_submission(body)
        except InvalidMessage as error:
            refused = error
        assert refused is None or refused.message
