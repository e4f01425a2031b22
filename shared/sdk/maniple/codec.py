"""Decoding and encoding of all messages that travel in bundles.

What cannot be decoded raises `InvalidMessage` with the error code for its sender; nothing else is
raised. JSON here has no NaN and no Infinity, is UTF-8, and nests at most 100 deep.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Raw

from maniple import malformed
from maniple.compression import MAGIC, decompressed, size_told
from maniple.errors import ErrorCode, InvalidMessage
from maniple.messages import MAX_BODY, MAX_DEPTH, MAX_NAME, MAX_TASKS, Envelope, Result, Task

M = TypeVar("M", bound=msgspec.Struct)
T = TypeVar("T")

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
# A payload stands in a task, which may stand in an array.
_PAYLOAD_DEPTH = MAX_DEPTH - 2

encode = msgspec.json.Encoder().encode
_decode_task = msgspec.json.Decoder(Task).decode
_decode_tasks = msgspec.json.Decoder(list[Task]).decode
_decode_members = msgspec.json.Decoder(list[Raw]).decode
_decode_envelopes = msgspec.json.Decoder(list[Envelope]).decode
_decode_result = msgspec.json.Decoder(Result).decode
_decode_results = msgspec.json.Decoder(list[Result]).decode
_decode_any = msgspec.json.Decoder().decode


def join(encoded: Sequence[bytes]) -> bytes:
    """Return a JSON array of values that are already encoded."""
    return b"[" + b",".join(encoded) + b"]"


def decode_value(raw: bytes | Raw) -> Any:
    """Return the JSON value in `raw`.

    Raises `InvalidMessage` (`undecodable`) for what is no JSON value.
    """
    try:
        return _decode_any(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        why = malformed.reason(str(error), bytes(raw))
        raise InvalidMessage(ErrorCode.UNDECODABLE, f"not a JSON value: {why}") from error


def is_list(body: bytes) -> bool:
    """Tell whether a submission looks like an array of tasks."""
    return body.removeprefix(malformed.BOM).lstrip()[:1] == b"["


def decode_submission(body: bytes, most_bad: int = MAX_TASKS) -> list[Task | InvalidMessage]:
    """Return the members of a submission: tasks, and an `InvalidMessage` for each bad member.

    A leading byte order mark is skipped. The error of a bad member carries the member's bytes in
    `body`. Decoding stops after `most_bad` + 1 bad members: the rest of the array is not looked at.
    Raises `InvalidMessage` when the whole message is refused.
    """
    if len(body) > MAX_BODY:
        raise InvalidMessage(
            ErrorCode.PAYLOAD_TOO_LARGE,
            f"a submission is at most {MAX_BODY:,} bytes, this one has {len(body):,}",
        )
    body = body.removeprefix(malformed.BOM)
    check_text(body)
    first = body.lstrip()[:1]
    if first == b"{":
        return [_member(body)]
    try:
        tasks = _decode_tasks(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        if first == b"[":
            return _members(body, most_bad)
        if isinstance(error, msgspec.ValidationError):
            raise _no_object("a submission is an object or an array", body) from error
        raise refusal(error, body) from error
    _check_count(len(tasks))
    # A shorter payload cannot nest so deep: of most tasks nothing more is looked at.
    return [
        task if len(task.payload) <= _PAYLOAD_DEPTH else _checked_or_refused(task) for task in tasks
    ]


def check_text(body: bytes) -> None:
    """Raise `InvalidMessage` unless `body` is UTF-8."""
    if body.isascii():
        return
    try:
        body.decode()
    except UnicodeDecodeError as error:
        why = malformed.foreign(body) or malformed.not_utf8(error)
        raise InvalidMessage(ErrorCode.UNDECODABLE, why) from error


def _members(body: bytes, most_bad: int) -> list[Task | InvalidMessage]:
    """Decode an array member by member, so that a bad one does not invalidate the others."""
    try:
        members = _decode_members(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise refusal(error, body) from error
    _check_count(len(members))
    found: list[Task | InvalidMessage] = []
    for raw in members:
        found.append(member := _member(raw))
        most_bad -= isinstance(member, InvalidMessage)
        if most_bad < 0:
            break
    return found


def _member(raw: Raw | bytes) -> Task | InvalidMessage:
    try:
        return _checked(_decode_task(raw))
    except (msgspec.MsgspecError, RecursionError) as error:
        refused = _why_bad(error, bytes(raw))
    except InvalidMessage as error:
        refused = error
    refused.body = bytes(raw)
    return refused


def _why_bad(error: Exception, body: bytes) -> InvalidMessage:
    if body.lstrip()[:1] != b"{":
        return _no_object("a task is an object", body)
    return refusal(error, body)


def _no_object(wanted: str, body: bytes) -> InvalidMessage:
    kind = malformed.kind_of(body)
    return InvalidMessage(ErrorCode.INVALID_TASK, f"{wanted}, this is {kind}")


def _checked_or_refused(task: Task) -> Task | InvalidMessage:
    try:
        return _checked(task)
    except InvalidMessage as error:
        error.body = encode(task)
        return error


class Identity(msgspec.Struct, frozen=True):
    """What can be read of a bad task's identity; any part may be missing."""

    id: str | None = None
    tenant: str = "default"
    capability: str | None = None


def peek_identity(body: bytes) -> Identity:
    """Return what can be read of a bad task's identity, so that its sender can tell which it is."""
    try:
        value = _decode_any(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Identity()
    if not isinstance(value, dict):
        return Identity()
    return Identity(
        id=_short(value.get("id")),
        tenant=_short(value.get("tenant")) or "default",
        capability=_short(value.get("capability")),
    )


def _short(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_NAME else None


def _checked(task: Task) -> Task:
    payload = task.payload
    if len(payload) > _PAYLOAD_DEPTH and exceeds_depth(bytes(payload), _PAYLOAD_DEPTH):
        raise InvalidMessage(ErrorCode.UNDECODABLE, f"nested deeper than {MAX_DEPTH}")
    return task


def _check_count(count: int) -> None:
    if count == 0:
        raise InvalidMessage(ErrorCode.INVALID_TASK, "an array of tasks must not be empty")
    if count > MAX_TASKS:
        raise InvalidMessage(
            ErrorCode.INVALID_TASK, f"at most {MAX_TASKS:,} tasks a message, this one has {count:,}"
        )


def exceeds_depth(raw: bytes, limit: int) -> bool:
    """Tell whether valid JSON nests deeper than `limit`."""
    if raw.count(b"[") + raw.count(b"{") <= limit:
        return False
    depth = 0
    for bracket in _STRINGS.sub(b"", raw).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > limit:
            return True
    return False


def refusal(error: Exception, body: bytes) -> InvalidMessage:
    """Return the `InvalidMessage` for an error of decoding `body`."""
    if isinstance(error, RecursionError):
        return InvalidMessage(ErrorCode.UNDECODABLE, f"nested deeper than {MAX_DEPTH}")
    text = str(error)
    if unknown := _UNKNOWN_FIELD.search(text):
        return InvalidMessage(
            ErrorCode.UNKNOWN_FIELD, text, detail={"field": unknown.group(1)[:MAX_NAME]}
        )
    if isinstance(error, msgspec.ValidationError):
        return InvalidMessage(ErrorCode.INVALID_TASK, text)
    return InvalidMessage(ErrorCode.UNDECODABLE, malformed.reason(text, body))


def plain(body: bytes) -> bytes:
    """Return a bundle as it was before it was compressed, if it was. Raises `InvalidMessage`."""
    return decompressed(body) if body.startswith(MAGIC) else body


def plain_size(body: bytes) -> int:
    """Return how many bytes a message will take that is read; not more than it may have."""
    return size_told(body) if body.startswith(MAGIC) else len(body)


def decode_envelopes(body: bytes) -> list[Envelope]:
    """Return the envelopes of a bundle. Raises `InvalidMessage`."""
    return _internal(_decode_envelopes, plain(body))


def decode_results(body: bytes) -> list[Result]:
    """Return the results in `body`: an array of them, or one. Raises `InvalidMessage`."""
    body = plain(body)
    if body.startswith(b"["):
        return _internal(_decode_results, body)
    return [_internal(_decode_result, body)]


def decode_members(body: bytes, model: type[M]) -> list[M | InvalidMessage]:
    """Return the members of a bundle of `model`, and an `InvalidMessage` for each bad one.

    So a member of a newer release costs no other. The error carries the member's bytes in `body`. A
    single object is read as a bundle of one. Raises `InvalidMessage` for anything else.
    """
    body = plain(body)
    decode_all = cast("Callable[[bytes], list[M | InvalidMessage]]", _list_decoder(model).decode)
    try:
        return decode_all(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        members = [body] if body[:1] == b"{" else _internal(_decode_members, body)
        return [_member_of(raw, model) for raw in members]


def _member_of(raw: Raw | bytes, model: type[M]) -> M | InvalidMessage:
    try:
        member: M = _internal(_decoder(model).decode, bytes(raw))
    except InvalidMessage as error:
        error.body = bytes(raw)
        return error
    return member


def decode_list(body: bytes, model: type[M]) -> list[M]:
    """Return a bundle of `model`. Raises `InvalidMessage`."""
    return _internal(_list_decoder(model).decode, body)


@lru_cache(maxsize=32)
def _list_decoder(model: type[M]) -> msgspec.json.Decoder[list[M]]:
    return msgspec.json.Decoder(list[model])  # type: ignore[valid-type]  # a run-time type


@lru_cache(maxsize=32)
def _decoder(model: type[M]) -> msgspec.json.Decoder[M]:
    return msgspec.json.Decoder(model)


def _internal(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise refusal(error, body) from error
