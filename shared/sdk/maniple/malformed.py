"""Error messages for bytes that are no valid JSON, written for their sender."""

import codecs
import re

BOM = codecs.BOM_UTF8
_KINDS = {b"n": "null", b"t": "true", b"f": "false", b'"': "a string", b"[": "an array"}
_PLACE = re.compile(r" \(byte (\d+)\)$")
# Longer marks first: that of UTF-32 begins as that of UTF-16 does.
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
    (b"{\0\0\0", "UTF-32"),
    (b"[\0\0\0", "UTF-32"),
    (b"\0\0\0", "UTF-32"),
    (b"{\0", "UTF-16"),
    (b"[\0", "UTF-16"),
    (b"\0{", "UTF-16"),
    (b"\0[", "UTF-16"),
)
_COMPRESSIONS = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x78\x01", "zlib"),
    (b"\x78\x9c", "zlib"),
    (b"\x78\xda", "zlib"),
)
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_TRUNCATED = "Input data was truncated"
_HALF_ERRORS = ("surrogate", "end of hex escape")
# How far before the end, or the place of the error, the half of a pair may stand.
_NEAR = 14
_NO_NUMBER = re.compile(rb"NaN|-?Infinity")
_HALF_AS_BYTES = re.compile(rb"\xed[\xa0-\xbf]")


def kind_of(raw: bytes) -> str:
    """Return the kind of a JSON value: `null`, `a number`."""
    return _KINDS.get(raw.lstrip()[:1], "a number")


def foreign(body: bytes) -> str | None:
    """Describe bytes that are clearly something else than UTF-8 JSON, or return None."""
    if not body.strip():
        return "the body is empty"
    for mark, name in _ENCODINGS:
        if body.startswith(mark):
            return f"the body is {name}: send UTF-8"
    for mark, name in _COMPRESSIONS:
        if body.startswith(mark):
            return f"the body is compressed ({name}): send plain JSON"
    return None


def not_utf8(error: UnicodeDecodeError) -> str:
    """Describe which bytes are not UTF-8."""
    at = error.start
    if _HALF_AS_BYTES.match(error.object, at):
        return f"not UTF-8: half of a surrogate pair is no character (byte {at})"
    return f"not UTF-8: 0x{error.object[at]:02x} (byte {at})"


def reason(text: str, body: bytes) -> str:
    """Return a decoder's message about `body`, or a better one where that is misleading."""
    if (said := foreign(body)) is not None:
        return said
    found = _PLACE.search(text)
    at = int(found[1]) if found else None
    if half := _half_of_pair(text, body, at):
        return half
    if text == _TRUNCATED:
        return f"the JSON is cut off: it ends after {len(body):,} bytes, within a value"
    if at is not None:
        return _at(text, body, at)
    return text


def _half_of_pair(text: str, body: bytes, at: int | None) -> str | None:
    """Describe an escape that is half of a surrogate pair; at the end it looks like truncation."""
    if at is not None and any(word in text for word in _HALF_ERRORS):
        begin, end = max(0, at - _NEAR), at + 2
    elif text == _TRUNCATED:
        begin, end = max(0, len(body) - _NEAR), len(body)
    else:
        return None
    for half in _HALF.finditer(body, begin, end):
        before = body[: half.start()]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:  # else it is an escaped backslash
            escape = half[0].decode()
            return f"{escape} is half of a surrogate pair, which is no character ({_byte(half)})"
    return None


def _byte(found: re.Match[bytes]) -> str:
    return f"byte {found.start()}"


def _at(text: str, body: bytes, at: int) -> str:
    # The place is of the first letter that no number has, which for -Infinity is the second.
    if (mark := body.find(BOM, max(0, at - 1), at + len(BOM))) >= 0:
        return f"a byte order mark stands within (byte {mark}): drop it"
    word = (at and _NO_NUMBER.match(body, at - 1)) or _NO_NUMBER.match(body, at)
    if word:
        return f"{word[0].decode()} is no JSON ({_byte(word)})"
    if "trailing characters" in text:
        return f"more than one JSON value (byte {at}): send several tasks as an array"
    return text
