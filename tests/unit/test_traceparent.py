"""W3C trace context, as it travels in messages."""

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maniple.traceparent import (
    begun_trace,
    is_begun_here,
    is_of_id,
    is_sampled,
    of_copy,
    parse_traceparent,
    span_id_of,
    trace_id_of,
    trace_of_id,
    with_sampling,
    with_span,
)

EXAMPLE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_traceparent_is_read() -> None:
    assert parse_traceparent(EXAMPLE) == (EXAMPLE[3:35], EXAMPLE[36:52], True)
    assert parse_traceparent(f"{EXAMPLE[:-1]}0") == (EXAMPLE[3:35], EXAMPLE[36:52], False)
    assert parse_traceparent(f"01{EXAMPLE[2:]}-later") is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        EXAMPLE.upper(),
        EXAMPLE[:-1],
        f"{EXAMPLE}-extra",
        f"ff{EXAMPLE[2:]}",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        f"{EXAMPLE}\n",
    ],
)
def test_a_malformed_traceparent_is_none(text: str) -> None:
    assert parse_traceparent(text) is None


@given(st.integers(min_value=0, max_value=2**128 - 1), st.booleans())
def test_a_new_trace_is_well_formed(bits: int, sampled: bool) -> None:
    text = begun_trace(bits, sampled=sampled)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", text)
    parsed = parse_traceparent(text)
    assert parsed is not None
    assert parsed.sampled is sampled
    assert is_sampled(text) is sampled
    assert is_begun_here(text)


@given(st.uuids(), st.booleans())
def test_the_new_trace_of_a_task_has_its_id(task: UUID, sampled: bool) -> None:
    text = trace_of_id(str(task), sampled=sampled)
    parsed = parse_traceparent(text or "")
    if task.int >> 64:
        assert text is not None
        assert parsed is not None
        assert (UUID(parsed.trace_id), parsed.sampled) == (task, sampled)
        assert is_begun_here(text)
        assert is_of_id(text, str(task)) is not sampled
        assert not is_of_id(text, task.hex)
        assert not is_of_id(text, str(task).replace("-", "", 1) + "-")
    else:
        assert text is None


@pytest.mark.parametrize(
    "task",
    ["", "one", "0193A7C0-0000-7000-8000-00000000000A", "0193a7c000007000800000000000000a",
     "00000000-0000-0000-0000-000000000001", "0193a7c0-0000-7000-8000-00000000000a\n"],
)  # fmt: skip
def test_an_id_that_is_no_uuid_gives_no_trace(task: str) -> None:
    assert trace_of_id(task, sampled=False) is None


@given(st.text())
def test_any_text_is_parsed_or_refused_without_an_error(text: str) -> None:
    parsed = parse_traceparent(text)
    assert parsed is None or text.startswith(text[:2] + f"-{parsed[0]}-{parsed[1]}-")


def test_sampling_changes_one_bit_and_nothing_else() -> None:
    unsampled = with_sampling(EXAMPLE, sampled=False)
    assert (unsampled[:-2], unsampled[-2:]) == (EXAMPLE[:-2], "00")
    assert with_sampling(unsampled, sampled=True) == EXAMPLE
    assert with_sampling(f"{EXAMPLE[:-2]}03", sampled=False).endswith("-02")
    assert is_sampled(f"{EXAMPLE[:-2]}0b")
    assert not is_sampled(None)


def test_another_span_is_in_the_same_trace() -> None:
    moved = with_span(EXAMPLE, "1" * 16)
    assert (trace_id_of(moved), span_id_of(moved)) == (trace_id_of(EXAMPLE), "1" * 16)
    assert is_sampled(moved)


def test_the_trace_of_a_copy_leads_back_to_its_originals() -> None:
    copy = of_copy(EXAMPLE)
    assert trace_id_of(copy) != trace_id_of(EXAMPLE)
    assert trace_id_of(of_copy(copy)) == trace_id_of(EXAMPLE)
    assert is_begun_here(copy)
    assert not is_begun_here(EXAMPLE)
