"""What handlers take and return, and its JSON: the same types in both directions.

A type that a payload may be annotated with may also be returned. Fields have the same names in both
directions; a field with an alias has that.
"""

import dataclasses
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
import pydantic
from msgspec import Raw, Struct
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, to_jsonable_python

from maniple.codec import decode_value, encode, exceeds_depth
from maniple.errors import ErrorCode, InvalidMessage, ProgressDropped
from maniple.json_types import not_from_json, not_from_json_by_msgspec
from maniple.messages import MAX_DEPTH, MAX_OUTPUT, MAX_PROGRESS

Decode = Callable[[bytes | Raw], Any]

MAX_PROBLEMS = 20
_PLAIN = (str, int, bool, type(None))
_UNTYPED = (Any, object)
_KEYS = (UUID, date, time, timedelta, Decimal, Enum)


def decoder_of(payload_type: Any, capability: str) -> Decode:
    """Return a function that decodes a payload from JSON.

    It raises `InvalidMessage` (`invalid_task`) for a payload that is not valid. Making it raises
    whatever pydantic and msgspec raise for a type that they cannot build, and `TypeError` for a
    type that no JSON value has.
    """
    if payload_type in _UNTYPED:
        return decode_value
    if payload_type is dict or payload_type is list:
        return _bare(payload_type, capability)
    if isinstance(payload_type, type) and issubclass(payload_type, Struct):
        return _struct(payload_type, capability)
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(payload_type)
    if not adapter.pydantic_complete:
        adapter.rebuild(raise_errors=True)
    _check(not_from_json(adapter.core_schema))

    def decode(payload: bytes | Raw) -> Any:
        try:
            return adapter.validate_json(bytes(payload))
        except pydantic.ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            told = [{"at": list(p["loc"]), "message": p["msg"]} for p in problems[:MAX_PROBLEMS]]
            raise _misfit(capability, problems[0]["msg"], told) from error

    return decode


def _check(why_not: str | None) -> None:
    if why_not is not None:
        raise TypeError(why_not)


def _bare(kind: type, capability: str) -> Decode:
    wanted = "an object" if kind is dict else "an array"

    def decode(payload: bytes | Raw) -> Any:
        value = decode_value(payload)
        if not isinstance(value, kind):
            raise _misfit(capability, f"it should be {wanted}")
        return value

    return decode


def _struct(kind: type[Struct], capability: str) -> Decode:
    decoder = msgspec.json.Decoder(kind)
    _check(not_from_json_by_msgspec(kind))

    def decode(payload: bytes | Raw) -> Any:
        try:
            return decoder.decode(payload)
        except msgspec.MsgspecError as error:
            raise _misfit(capability, str(error)) from error

    return decode


def _misfit(
    capability: str, why: str, problems: list[dict[str, Any]] | None = None
) -> InvalidMessage:
    return InvalidMessage(
        ErrorCode.INVALID_TASK,
        f"the payload does not fit {capability}: {why}",
        detail={"errors": problems or [{"at": [], "message": why}]},
    )


def encode_output(value: Any) -> bytes:
    """Return a handler's return value as JSON.

    Raises `InvalidMessage` (`invalid_output`) for a value that is not JSON, nests over 100 deep or
    is over 1 MiB. Any type that a payload may be annotated with is accepted.
    """
    try:
        raw = _encoded(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidMessage(
            ErrorCode.INVALID_OUTPUT, f"the handler returned no JSON value: {error}"
        ) from error
    if len(raw) > MAX_OUTPUT:
        raise InvalidMessage(
            ErrorCode.INVALID_OUTPUT,
            f"an output is at most {MAX_OUTPUT:,} bytes, this one has {len(raw):,}",
        )
    if _is_too_deep(raw):
        raise InvalidMessage(ErrorCode.INVALID_OUTPUT, f"nested deeper than {MAX_DEPTH}")
    return raw


def encode_progress(value: Any) -> bytes:
    """Return a progress value as JSON. Raises `ProgressDropped` if it cannot be sent.

    Progress is best effort and does not fail the task: `TaskContext.progress` tells that it was
    dropped.
    """
    try:
        raw = _encoded(value)
    except Exception as error:
        # Whatever it is: a model's own serializer may raise what it likes.
        raise ProgressDropped("it is no JSON value") from error
    if len(raw) > MAX_PROGRESS:
        raise ProgressDropped(f"it is larger than {MAX_PROGRESS:,} bytes of JSON")
    if _is_too_deep(raw):
        raise ProgressDropped(f"it is nested deeper than {MAX_DEPTH}")
    return raw


def _encoded(value: Any) -> bytes:
    return encode(value) if type(value) in _PLAIN else dumps(value)


def _is_too_deep(raw: bytes) -> bool:
    return exceeds_depth(raw, MAX_DEPTH - 2)


def dumps(value: Any) -> bytes:
    """Return a value as JSON.

    Raises `TypeError`, `ValueError`, `RecursionError` or `msgspec.MsgspecError` if it cannot be
    encoded.
    """
    try:
        text = _dumped(value)
    except _NotJson:
        raise
    except TypeError:  # a key that is no string
        text = _dumped(_with_keys(value))
    return text.encode()


class _NotJson(TypeError):
    """A value of a type that JSON cannot express."""

    def __init__(self, value: Any) -> None:
        parts = isinstance(value, Iterator | AsyncIterator)
        more = ": return a list, or tell parts with context.progress(…)" if parts else ""
        super().__init__(f"{type(value).__name__} is not JSON{more}")


def _dumped(value: Any) -> str:
    # The standard library's encoder, because it can refuse NaN; msgspec writes null for it.
    return json.dumps(
        value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain
    )


def _plain(value: Any) -> Any:
    """Return a JSON type for a value of another type; its content may need the same again."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Struct):
        return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)
    if isinstance(value, type | Iterator):
        raise _NotJson(value)
    if isinstance(value, set | frozenset | deque):
        return list(value)
    kind = type(value)
    if dataclasses.is_dataclass(kind) and not hasattr(kind, "__pydantic_serializer__"):
        return {alias: getattr(value, name) for name, alias in names_of(kind).items()}
    try:
        return to_jsonable_python(value, by_alias=True)
    except PydanticSerializationError as error:
        raise _NotJson(value) from error


@lru_cache(maxsize=1024)
def names_of(kind: type[Any]) -> dict[str, str]:
    """Return the fields of a dataclass, each with its name in JSON."""
    try:
        hints = get_type_hints(kind, include_extras=True)
    except (NameError, TypeError):  # it could be no payload either
        hints = {}
    return {f.name: _alias(hints.get(f.name), f) for f in dataclasses.fields(kind)}


def _alias(hint: Any, field: dataclasses.Field[Any]) -> str:
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    for info in (field.default, *extras):
        if isinstance(info, FieldInfo):
            return info.serialization_alias or info.alias or field.name
    return field.name


def _with_keys(value: Any) -> Any:
    """Return a value all of whose keys are JSON's."""
    if isinstance(value, dict):
        return {_key(key): _with_keys(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_keys(inner) for inner in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return _with_keys(_plain(value))


def _key(key: Any) -> Any:
    if isinstance(key, _KEYS) and not isinstance(key, str | int):
        (key,) = to_jsonable_python({key: None})
    return key
