"""Frames of AMQP, against those of another implementation and against rubbish."""

from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pamqp import body, commands, header
from pamqp import frame as pamqp_frame
from pamqp.base import Frame

from maniple.amqp.wire import framing
from maniple.amqp.wire.amqp_errors import ProtocolError
from maniple.amqp.wire.framing import FrameReader, Received
from scripted_broker import every_method

FRAME_MAX = 4096
ROOM = FRAME_MAX - framing.OVERHEAD

channels = st.integers(0, 65_535)
tags = st.integers(0, 2**63 - 1)  # pamqp has them signed
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
plain_names = st.from_regex(r"[a-zA-Z0-9._:-]{0,80}", fullmatch=True)
frames = st.tuples(
    st.sampled_from([framing.METHOD, framing.HEADER, framing.BODY]),
    channels,
    st.binary(max_size=200),
)


def stream_of(sent: Iterable[Received]) -> bytes:
    return b"".join(framing.frame_of(*frame) for frame in sent)


def reader(largest: int = FRAME_MAX) -> FrameReader:
    made = FrameReader()
    made.largest = largest
    return made


def pieces(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[one:other] for one, other in pairwise(at)]


@given(st.lists(frames, max_size=12), st.lists(st.integers(0, 5000), max_size=12))
def test_a_stream_gives_the_same_frames_however_it_is_split(
    sent: list[Received], cuts: list[int]
) -> None:
    made = reader()
    found = [frame for piece in pieces(stream_of(sent), cuts) for frame in made.feed(piece)]
    assert found == sent


@given(st.lists(frames, min_size=1, max_size=4))
def test_a_stream_gives_the_same_frames_byte_by_byte(sent: list[Received]) -> None:
    made = reader()
    stream = stream_of(sent)
    found = [frame for at in range(len(stream)) for frame in made.feed(stream[at : at + 1])]
    assert found == sent


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
@example(b"HTTP/1.1 400 Bad Request\r\n\r\n", [])
@example(framing.PROTOCOL_HEADER, [])
@example(b"\x01\x00\x01\xff\xff\xff\xff\x00", [])
def test_any_bytes_are_frames_or_refused_and_never_more_than_a_frame_is_waited_for(
    data: bytes, cuts: list[int]
) -> None:
    made = reader(64)
    made.largest_header = 64
    try:
        for piece in pieces(data, cuts):
            made.feed(piece)
    except ProtocolError:
        return
    assert len(made._rest) < 64
    with pytest.raises(ProtocolError):
        made.feed(bytes(64))  # no kind of frame: sooner or later that is seen


def test_a_header_may_have_more_than_a_frame_but_not_without_end() -> None:
    header_frame = framing.frame_of(framing.HEADER, 1, bytes(2 * FRAME_MAX))
    assert reader(FRAME_MAX).feed(header_frame) == [(framing.HEADER, 1, bytes(2 * FRAME_MAX))]
    begun = framing.frame_of(framing.HEADER, 1, b"")[:3] + framing.LARGEST_HEADER.to_bytes(4, "big")
    with pytest.raises(ProtocolError, match="were agreed"):
        reader(FRAME_MAX).feed(begun + b"\x00")


@pytest.mark.parametrize("largest", [FRAME_MAX, 131_072])
def test_a_frame_is_as_large_as_was_agreed_and_no_larger(largest: int) -> None:
    full = framing.frame_of(framing.BODY, 1, bytes(largest - framing.OVERHEAD))
    assert len(full) == largest
    assert reader(largest).feed(full) == [(framing.BODY, 1, bytes(largest - framing.OVERHEAD))]
    larger = framing.frame_of(framing.BODY, 1, bytes(largest - framing.OVERHEAD + 1))
    with pytest.raises(ProtocolError, match=f"{largest + 1} bytes, where {largest} were agreed"):
        reader(largest).feed(larger[: framing.OVERHEAD])  # before the rest has come


def test_a_frame_that_does_not_end_where_it_should_is_refused() -> None:
    frame = framing.frame_of(framing.METHOD, 1, b"1234")[:-1] + b"\x00"
    with pytest.raises(ProtocolError, match="does not end"):
        reader().feed(frame)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"AMQP\x00\x00\x09\x01", "another version of AMQP: 00000901"),
        (b"AMQP\x00\x01\x00\x00", "another version of AMQP: 00010000"),
        (b"HTTP/1.1 400 Bad Request", "does not speak AMQP: it sent b'HTTP/1.1 400 Bad"),
        (b"\x15\x03\x03\x00\x02\x02\x0a\x00", "does not speak AMQP"),
    ],
)
def test_who_does_not_speak_amqp_is_told_by_what_it_sent(answer: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        reader().feed(answer)


METHODS = every_method()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.filterwarnings("ignore:This command is deprecated:DeprecationWarning")
def test_every_method_is_read_as_it_was_written(method: Frame) -> None:
    ((kind, channel, payload),) = reader().feed(framing.method_frame(7, method))
    number, read = framing.read_method(payload)
    assert (kind, channel, number) == (framing.METHOD, 7, method.index)
    assert number == framing.method_number(payload)
    assert (type(read), dict(read)) == (type(method), dict(method))


@given(st.binary(max_size=64), st.sampled_from(METHODS))
@pytest.mark.filterwarnings("ignore:This command is deprecated:DeprecationWarning")
def test_a_method_of_any_bytes_is_read_or_refused(payload: bytes, kind: Frame) -> None:
    for number in (b"", kind.index.to_bytes(4, "big")):
        with suppress(ProtocolError):
            assert framing.read_method(number + payload)[1].name


@given(channels, plain_names, plain_names, st.booleans())
def test_a_publish_says_what_another_implementation_reads(
    channel: int, exchange: str, key: str, mandatory: bool
) -> None:
    method = framing.publish_method(exchange, key, mandatory=mandatory)
    _, number, read = pamqp_frame.unmarshal(framing.frame_of(framing.METHOD, channel, method))
    wanted = commands.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory)
    assert isinstance(read, commands.Basic.Publish)
    assert (number, dict(read)) == (channel, dict(wanted))


@given(channels, tags, st.booleans())
def test_a_settlement_says_what_another_implementation_reads(
    channel: int, tag: int, flag: bool
) -> None:
    ack, reject = (
        framing.SETTLING.pack(
            framing.METHOD, channel, framing.SETTLING_SIZE, method, tag, flag, framing.END
        )
        for method in (framing.ACK, framing.REJECT)
    )
    assert ack == pamqp_frame.marshal(commands.Basic.Ack(tag, multiple=flag), channel)
    assert reject == pamqp_frame.marshal(commands.Basic.Reject(tag, requeue=flag), channel)


@given(plain_names, tags, st.booleans(), plain_names, names)
def test_a_delivery_is_read_as_another_implementation_wrote_it(
    consumer: str, tag: int, redelivered: bool, exchange: str, key: str
) -> None:
    written = commands.Basic.Deliver(consumer, tag, redelivered, exchange, key)
    ((_, _, payload),) = reader().feed(pamqp_frame.marshal(written, 1))
    assert framing.method_number(payload) == framing.DELIVER
    assert framing.read_deliver(payload) == (consumer, tag, redelivered, exchange, key)


@given(tags, st.booleans(), st.booleans())
def test_a_confirm_is_read_as_another_implementation_wrote_it(
    tag: int, multiple: bool, positive: bool
) -> None:
    kind = commands.Basic.Ack if positive else commands.Basic.Nack
    ((_, _, payload),) = reader().feed(pamqp_frame.marshal(kind(tag, multiple=multiple), 1))
    wanted = framing.ACK if positive else framing.NACK
    assert (framing.method_number(payload), *framing.read_confirm(payload)) == (
        wanted,
        tag,
        multiple,
    )


@given(st.binary(max_size=40))
def test_what_a_message_needs_is_read_of_any_bytes_or_refused(payload: bytes) -> None:
    refused = 0
    readers = (
        framing.read_deliver,
        framing.read_got,
        framing.read_confirm,
        framing.read_header,
        framing.method_number,
    )
    for read in readers:
        try:
            read(payload)
        except ProtocolError:
            refused += 1
    assert len(payload) >= 12 or refused  # the shortest that they all could read


@pytest.mark.parametrize("size", [0, 1, ROOM - 1, ROOM, ROOM + 1, 2 * ROOM, 100_000])
def test_a_body_is_cut_into_frames_that_the_broker_takes(size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    stream = framing.message_frames(3, b"method", b"\x00\x00", content, FRAME_MAX)
    (method, first, *rest) = reader().feed(stream)
    assert method == (framing.METHOD, 3, b"method")
    read = pamqp_frame.unmarshal(framing.frame_of(*first))[2]
    assert isinstance(read, header.ContentHeader)
    assert read.body_size == size
    assert first[2][:2] == framing.BASIC.to_bytes(2, "big")
    assert b"".join(payload for _, _, payload in rest) == content
    assert len(rest) == -(-size // ROOM)
    assert {(kind, channel) for kind, channel, _ in rest} <= {(framing.BODY, 3)}


def test_properties_that_are_larger_than_a_frame_are_refused() -> None:
    framing.message_frames(1, b"", bytes(ROOM - 12), b"", FRAME_MAX)
    with pytest.raises(ValueError, match="properties of a message"):
        framing.message_frames(1, b"", bytes(ROOM - 11), b"", FRAME_MAX)


@given(st.binary(max_size=9000), channels)
def test_content_is_read_as_another_implementation_wrote_it(content: bytes, channel: int) -> None:
    written = header.ContentHeader(body_size=len(content), properties=commands.Basic.Properties())
    stream = pamqp_frame.marshal(written, channel)
    for at in range(0, len(content), ROOM):
        stream += pamqp_frame.marshal(body.ContentBody(content[at : at + ROOM]), channel)
    (first, *rest) = reader().feed(stream)
    assert framing.read_header(first[2]) == (len(content), b"\x00\x00")
    assert b"".join(payload for _, _, payload in rest) == content


def test_a_name_has_at_most_255_bytes_of_its_encoding() -> None:
    assert framing.short_string("x" * 255) == b"\xff" + b"x" * 255
    assert len(framing.short_string("ü" * 127)) == 255
    for name in ("x" * 256, "ü" * 128):
        with pytest.raises(ValueError, match="255 bytes"):
            framing.short_string(name)
