"""The properties of a message, against those of another implementation and against rubbish."""

from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands

from maniple.amqp.wire.framing import short_string
from maniple.amqp.wire.properties import UNREADABLE, Properties, read_properties

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVERY_TYPE: dict[str, Any] = {
    "yes": True,
    "no": False,
    "byte": -3,
    "short": -300,
    "unsigned short": 60_000,
    "long": -70_000,
    "unsigned long": 4_000_000_000,
    "long long": 2**40,
    "float": 0.5,
    "decimal": Decimal("3.14"),
    "text": "wörter",
    "empty text": "",
    "bytes": bytearray(b"\x00\xff"),
    "time": NOON,
    "nothing": None,
    "list": [1, "two", [3.0, None], {"four": True}],
    "table": {"inner": {"inmost": ["deep", -1]}},
}
texts = st.text(st.characters(codec="utf-8"), max_size=60)
octets = st.integers(0, 255)
times = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(  # noqa: DTZ001 - below
    lambda found: found.replace(microsecond=0, tzinfo=UTC)
)
keys = st.text(st.characters(codec="ascii"), min_size=1, max_size=30)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | texts
    | times
    | st.floats(width=32, allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
properties = st.builds(
    Properties,
    content_type=st.none() | texts,
    content_encoding=st.none() | texts,
    headers=st.none() | st.dictionaries(keys, values, min_size=1, max_size=4),
    delivery_mode=st.none() | st.sampled_from([1, 2]),
    priority=st.none() | octets,
    correlation_id=st.none() | texts,
    reply_to=st.none() | texts,
    expiration=st.none() | texts,
    message_id=st.none() | texts,
    timestamp=st.none() | times,
    message_type=st.none() | texts,
    user_id=st.none() | texts,
    app_id=st.none() | texts,
)


@given(properties)
def test_properties_are_read_as_they_were_written(written: Properties) -> None:
    assert read_properties(written.to_bytes()) == written


@given(properties)
def test_another_implementation_reads_what_we_write_and_writes_what_we_read(
    written: Properties,
) -> None:
    theirs = commands.Basic.Properties()
    data = written.to_bytes()
    theirs.unmarshal(int.from_bytes(data[:2], "big"), data[2:])
    assert {name: getattr(theirs, name) for name in asdict(written)} == asdict(written)
    said = {name: value for name, value in asdict(written).items() if value != ""}  # it leaves ""
    assert read_properties(theirs.marshal()) == Properties(**said)


def test_headers_of_every_type_come_as_they_were() -> None:
    assert read_properties(Properties(headers=EVERY_TYPE).to_bytes()).headers == EVERY_TYPE


def test_no_properties_are_two_bytes() -> None:
    assert Properties().to_bytes() == Properties(headers={}).to_bytes() == b"\x00\x00"
    assert read_properties(b"\x00\x00") == Properties()


@given(st.binary(max_size=120), st.integers(0, 2**16 - 1))
def test_any_bytes_are_properties_of_some_kind(rest: bytes, flags: int) -> None:
    assert isinstance(read_properties(rest), Properties)
    assert isinstance(read_properties(flags.to_bytes(2, "big") + rest), Properties)


@given(properties, st.integers(0, 400))
def test_properties_that_end_too_soon_are_shown_as_far_as_they_go(
    written: Properties, cut: int
) -> None:
    found = read_properties(written.to_bytes()[:cut])
    assert isinstance(found, Properties)


def test_text_that_is_no_text_is_shown_and_what_follows_is_read() -> None:
    data = (1 << 7 | 1 << 3).to_bytes(2, "big") + b"\x02\xff\xfe" + short_string("app")
    found = read_properties(data)
    assert (found.message_id, found.app_id) == (UNREADABLE * 2, "app")


@pytest.mark.parametrize(
    "table",
    [
        b"\x01a?",  # a type that there is not
        b"\x01aF\x00\x00\x00\x06\x01bF\x00\x00",
        b"\x01aA\xff\xff\xff\xff",
    ],
)
def test_headers_that_cannot_be_read_are_shown_and_what_follows_is_read(table: bytes) -> None:
    data = (1 << 13 | 1 << 3).to_bytes(2, "big") + len(table).to_bytes(4, "big") + table
    found = read_properties(data + short_string("app"))
    assert (found.headers, found.app_id) == ({UNREADABLE: table}, "app")


def test_headers_in_headers_without_end_cost_nobody_a_connection() -> None:
    table = b""
    for _ in range(5000):
        table = b"\x01aF" + len(table).to_bytes(4, "big") + table
    data = (1 << 13 | 1 << 3).to_bytes(2, "big") + len(table).to_bytes(4, "big") + table
    found = read_properties(data + short_string("app"))
    assert found.app_id == "app"
    assert found.headers == {UNREADABLE: table}


@pytest.mark.parametrize(
    "wrong",
    [
        Properties(message_id="x" * 256),
        Properties(priority=256),
        Properties(timestamp=datetime(1969, 12, 31, tzinfo=UTC)),
        Properties(headers={"a": object()}),
        Properties(headers={"a": 2**64}),
    ],
)
def test_what_amqp_does_not_have_is_refused_before_anything_is_sent(wrong: Properties) -> None:
    with pytest.raises((ValueError, TypeError)):
        wrong.to_bytes()
