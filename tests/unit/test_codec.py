import pytest
from hypothesis import given
from hypothesis import strategies as st

from maniple import codec
from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import Progress


def test_joining_gives_an_array_of_what_was_encoded() -> None:
    assert codec.decode_value(codec.join([b"1", b'"a"', b"{}"])) == [1, "a", {}]
    assert codec.decode_value(codec.join([])) == []


@pytest.mark.parametrize("raw", [b"", b"{", b"nul", b"1 2", b"\xff", b"[" * 20_000])
def test_what_is_no_value_is_said_so(raw: bytes) -> None:
    with pytest.raises(InvalidMessage) as caught:
        codec.decode_value(raw)
    assert caught.value.code is ErrorCode.UNDECODABLE


@given(st.integers(0, 30), st.integers(0, 30))
def test_depth_is_counted_as_a_reader_would(depth: int, limit: int) -> None:
    raw = b"[" * depth + b'"]]}{{\\"[["' + b"]" * depth
    assert codec.exceeds_depth(raw, limit) == (depth > limit)
    wide = b"[" + b",".join([b"[]"] * 50) + b"]"
    assert codec.exceeds_depth(wide, limit) == (limit < 2)


def test_of_a_bad_task_the_identity_is_still_read() -> None:
    found = codec.peek_identity(b'{"id":"x","tenant":"blue","capability":"a.b","paylod":1}')
    assert (found.id, found.tenant, found.capability) == ("x", "blue", "a.b")
    for body in (b"", b"[]", b'{"id":7,"tenant":"","capability":null}', b"[" * 20_000):
        assert codec.peek_identity(body) == codec.Identity()
    assert codec.peek_identity(b'{"id":"' + b"x" * 129 + b'"}').id is None


def test_lists_of_any_model_are_decoded_or_refused() -> None:
    body = b'[{"id":"1","capability":"a","attempt":1,"value":[1],"at":"2026-01-02T03:04:05Z"}]'
    assert bytes(codec.decode_list(body, Progress)[0].value) == b"[1]"
    with pytest.raises(InvalidMessage):
        codec.decode_list(b'[{"id":"1"}]', Progress)
