"""Types of payloads that JSON can never fill are refused; whatever it may fill is taken."""

import dataclasses
from collections.abc import Callable
from types import FunctionType
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Optional

import msgspec
import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from typing_extensions import TypedDict

from maniple.errors import InvalidMessage
from maniple.values import decoder_of


class Lock: ...


class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    number: int
    then: Callable[[], int] | None = None
    lock: Lock = Lock()


class Made(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    lock: Annotated[Lock, BeforeValidator(lambda _: Lock())]


class MadeWhole(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    lock: Lock

    @model_validator(mode="before")
    @classmethod
    def make(cls, _: Any) -> Any:
        return {"lock": Lock()}


@dataclasses.dataclass
class Node:
    number: int
    then: Callable[[], int] | None = None
    inner: Optional["Node"] = None
    made: Lock | None = None
    own: Callable[[], int] = dataclasses.field(init=False)


class Typed(TypedDict):
    number: int
    then: NotRequired[Callable[[], int]]


class Struct(msgspec.Struct):
    number: int
    lock: Lock | None = None
    own: Lock = msgspec.field(default_factory=Lock)
    inner: Optional["Struct"] = None


class Named(NamedTuple):
    number: int
    then: Callable[[], int] | None = None


Node.__pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "payload", "fits"),
    [
        (Model, b'{"number":1}', lambda got: (got.number, got.then) == (1, None)),
        (Made, b'{"lock":1}', lambda got: isinstance(got.lock, Lock)),
        (MadeWhole, b'{"lock":1}', lambda got: isinstance(got.lock, Lock)),
        (Node, b'{"number":1,"inner":{"number":2}}', lambda got: got.inner.number == 2),
        (Typed, b'{"number":1}', lambda got: got == {"number": 1}),
        (Struct, b'{"number":1,"inner":{"number":2}}', lambda got: got.inner.number == 2),
        (Named, b"[1]", lambda got: got == Named(1)),
        (list[Node], b'[{"number":1}]', lambda got: [one.number for one in got] == [1]),
        (int | Callable[[], int], b"1", lambda got: got == 1),
        (Callable[[], int] | None, b"null", lambda got: got is None),
        (dict[str, Model | int], b'{"a":1}', lambda got: got == {"a": 1}),
        (tuple[int, ...], b"[1,2]", lambda got: got == (1, 2)),
        (Literal["a"], b'"a"', lambda got: got == "a"),
    ],
    ids=lambda one: str(one) if not isinstance(one, FunctionType) else "",
)
def test_what_some_payload_fits_is_taken(
    kind: Any, payload: bytes, fits: Callable[[Any], bool]
) -> None:
    assert fits(decoder_of(kind, "a.b")(payload))


class Needs(msgspec.Struct):
    inner: Annotated[dict[str, tuple[int, Lock]], msgspec.Meta(min_length=1)]


class Wants(TypedDict):
    then: Callable[[], int]


@pytest.mark.parametrize(
    "kind",
    [
        Needs,
        Wants,
        tuple[int, Callable[[], int]],
        dict[str, Callable[[], int]],
        list[Wants],
        type[Lock],
    ],
    ids=str,
)
def test_what_no_payload_fits_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="JSON has no value for"):
        decoder_of(kind, "a.b")


def test_what_is_wrong_with_a_payload_is_told_as_before() -> None:
    with pytest.raises(InvalidMessage, match=r"does not fit a\.b"):
        decoder_of(Model, "a.b")(b"{}")
