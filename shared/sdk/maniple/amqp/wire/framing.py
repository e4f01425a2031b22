"""Frames of AMQP 0-9-1: from a stream of bytes, and to it.

A frame is its kind (1 byte), channel (2), size (4), the payload, and `END`. Only the methods that
each message needs are written and read here; `pamqp` has all others.
"""

from functools import lru_cache
from struct import Struct, error

from pamqp import frame as pamqp_frame
from pamqp.base import Frame

from maniple.amqp.wire.amqp_errors import ProtocolError

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = 0xCE
OVERHEAD = 8  # bytes of a frame besides its payload
HEARTBEAT_FRAME = bytes((HEARTBEAT, 0, 0, 0, 0, 0, 0, END))
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
LEAST_FRAME_MAX = 4096  # of the protocol

BASIC = 60
PUBLISH = BASIC << 16 | 40
DELIVER = BASIC << 16 | 60
GET_OK = BASIC << 16 | 71
ACK = BASIC << 16 | 80
REJECT = BASIC << 16 | 90
NACK = BASIC << 16 | 120
_CLOSES = (10 << 16 | 50, 20 << 16 | 40)  # of a connection, of a channel

_END = bytes((END,))
_LENGTHS = tuple(bytes((length,)) for length in range(256))
_HEAD = Struct(">BHI")
_METHOD = Struct(">I")
SETTLING = Struct(">BHIIQBB")
"""A whole frame of `ACK` or `REJECT`: kind, channel, size, method, tag, flag and `END`."""
SETTLING_SIZE = 13
_CONFIRM = Struct(">QB")
_CONTENT = Struct(">HHQ")
_TAG = Struct(">QB")

LARGEST_HEADER = 1 << 24
"""Bytes of a message's header. It may be larger than the frames that we agreed to: RabbitMQ does
not cut it, its publisher may have agreed to more, and a dead-lettered message gets more headers."""

Received = tuple[int, int, bytes]
"""Kind, channel and payload of a frame."""


class FrameReader:
    """Cuts a stream into frames, however its bytes arrive."""

    def __init__(self) -> None:
        """Begin before the first byte."""
        self.largest = 1 << 20
        """The most bytes that a frame may have: until that is agreed, more than enough."""
        self.largest_header = LARGEST_HEADER
        self._rest = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> list[Received]:
        """Return the frames that `data` completes. Raises `ProtocolError` for anything else."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames: list[Received] = []
        at, length, most = 0, len(data), self.largest
        while length - at >= OVERHEAD:
            kind, channel, size = _HEAD.unpack_from(data, at)
            end = at + size + OVERHEAD
            # Before all of it has come: what is no frame may never end.
            if kind not in _KINDS or end - at > (most if kind != HEADER else self.largest_header):
                raise ProtocolError(_why_not(kind, size, most, data[at : at + 16]))
            if end > length:
                break
            if data[end - 1] != END:
                raise ProtocolError("a frame does not end where it should")
            frames.append((kind, channel, data[at + 7 : end - 1]))
            at = end
        self._keep(data[at:])
        return frames

    def _keep(self, rest: bytes) -> None:
        """Keep the beginning of a frame until it is whole."""
        if not rest:
            return
        self._rest += rest
        self._needed = OVERHEAD
        if len(rest) >= OVERHEAD:
            self._needed += _HEAD.unpack_from(rest)[2]


_KINDS = frozenset((METHOD, HEADER, BODY, HEARTBEAT))


def _why_not(kind: int, size: int, most: int, data: bytes) -> str:
    if data.startswith(b"AMQP"):
        return f"the broker wants another version of AMQP: {data[4:8].hex()}"
    if kind not in _KINDS:
        return f"it does not speak AMQP: it sent {data!r}"
    return f"a frame of {size + OVERHEAD} bytes, where {most} were agreed"


def frame_of(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a frame."""
    return b"".join((_HEAD.pack(kind, channel, len(payload)), payload, _END))


def method_frame(channel: int, method: Frame) -> bytes:
    """Return the frame of any method. Raises `ValueError` for what it cannot have."""
    return pamqp_frame.marshal(method, channel)


def read_method(payload: bytes) -> tuple[int, Frame]:
    """Return the number of any method, and what it says. Raises `ProtocolError`."""
    try:
        number: int = _METHOD.unpack_from(payload)[0]
        if number in _CLOSES:
            payload = _with_whole_letters(payload)
        _, _, method = pamqp_frame.unmarshal(frame_of(METHOD, 0, payload))
    except Exception as problem:  # it is the peer's, whatever it is
        raise ProtocolError(f"a method that cannot be read: {problem!r}") from problem
    assert isinstance(method, Frame)  # noqa: S101 - of the frame's kind
    return number, method


def _with_whole_letters(close: bytes) -> bytes:
    """Return a close whose text can be read: RabbitMQ cuts a long one, also within a letter."""
    end = 7 + close[6]
    text = close[7:end].decode("utf-8", "ignore").encode()
    return b"".join((close[:6], bytes((len(text),)), text, close[end:]))


def method_number(payload: bytes) -> int:
    """Return the class of a method (upper 16 bits) and its number. Raises `ProtocolError`."""
    try:
        number: int = _METHOD.unpack_from(payload)[0]
    except error as problem:
        raise ProtocolError("a method without a number") from problem
    return number


@lru_cache(maxsize=1024)
def publish_method(exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    """Return the method of a publish. Raises `ValueError` for names over 255 bytes."""
    return b"".join(
        (
            _METHOD.pack(PUBLISH),
            b"\x00\x00",
            short_string(exchange),
            short_string(routing_key),
            b"\x01" if mandatory else b"\x00",
        )
    )


def message_frames(
    channel: int, method: bytes, properties: bytes, body: bytes, frame_max: int
) -> bytes:
    """Return all frames of a message; `ValueError` for too large a header."""
    header = _CONTENT.pack(BASIC, 0, len(body)) + properties
    most = frame_max - OVERHEAD
    if len(header) > most:
        raise ValueError(f"the properties of a message have {len(header)} bytes, more than {most}")
    parts = [_HEAD.pack(METHOD, channel, len(method)), method, _END]
    parts += (_HEAD.pack(HEADER, channel, len(header)), header, _END)
    for at in range(0, len(body), most):
        part = body[at : at + most]
        parts += (_HEAD.pack(BODY, channel, len(part)), part, _END)
    return b"".join(parts)


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """Return tag and `multiple` of an ack or nack. Raises `ProtocolError`."""
    try:
        tag, bits = _CONFIRM.unpack_from(payload, 4)
    except error as problem:
        raise ProtocolError("a confirm that cannot be read") from problem
    return tag, bool(bits & 1)


def read_deliver(payload: bytes) -> tuple[str, int, bool, str, str]:
    """Return consumer tag, delivery tag, whether redelivered, exchange and routing key."""
    try:
        at = 5 + payload[4]
        return (payload[5:at].decode("utf-8", "replace"), *_read_source(payload, at))
    except (IndexError, error) as problem:
        raise ProtocolError("a delivery that cannot be read") from problem


def read_got(payload: bytes) -> tuple[int, bool, str, str]:
    """Return delivery tag, whether redelivered, exchange and routing key of a `GET_OK`."""
    try:
        return _read_source(payload, 4)
    except (IndexError, error) as problem:
        raise ProtocolError("a message that cannot be read") from problem


def _read_source(payload: bytes, at: int) -> tuple[int, bool, str, str]:
    """Read on from `at`. Whoever published it may have put any bytes into the routing key."""
    tag, redelivered = _TAG.unpack_from(payload, at)
    end = at + 10 + payload[at + 9]
    exchange = payload[at + 10 : end].decode("utf-8", "replace")
    key = payload[end + 1 : end + 1 + payload[end]].decode("utf-8", "replace")
    return tag, bool(redelivered & 1), exchange, key


def read_header(payload: bytes) -> tuple[int, bytes]:
    """Return the size of a message's body, and its properties. Raises `ProtocolError`."""
    try:
        kind, _, size = _CONTENT.unpack_from(payload)
    except error as problem:
        raise ProtocolError("a header that cannot be read") from problem
    if kind != BASIC:
        raise ProtocolError(f"a message of class {kind}")
    return size, payload[12:]


def short_string(text: str) -> bytes:
    """Return a name as AMQP has it. Raises `ValueError` for one of more than 255 bytes."""
    data = text.encode()
    try:
        return _LENGTHS[len(data)] + data
    except IndexError:
        raise ValueError("a name in AMQP has at most 255 bytes") from None
