"""What a payload may be annotated with: it is validated, and can be returned as it came."""

import enum
import textwrap
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from maniple.errors import ErrorCode, InvalidMessage
from maniple.loading import load_registry
from maniple.values import decoder_of, encode_output


class Colour(enum.Enum):
    RED = "red"


class Order(BaseModel):
    number: int = Field(alias="n")


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    first_name: str


@dataclass
class Visit:
    at: datetime
    day: date
    wait: timedelta
    who: UUID
    orders: list[Order]
    price: Annotated[Decimal, Field(alias="cost")]
    tags: set[str] = field(default_factory=set)


@pydantic_dataclass
class Strict:
    at: datetime
    number: int = Field(alias="n", default=0)


class Row(TypedDict):
    at: datetime
    colours: dict[Colour, int]


class Pair(NamedTuple):
    left: int
    right: date


class Message(msgspec.Struct, rename="camel"):
    sent_at: datetime
    raw: bytes


ROUND = [
    (Visit, (b'{"at":"2030-01-01T00:00:00Z","day":"2030-01-01","wait":"PT1M","who":'
            b'"00000000-0000-0000-0000-000000000001","orders":[{"n":1}],"cost":"1.50","tags":["a"]}')),
    (Order, b'{"n":3}'),
    (Camel, b'{"firstName":"Ada"}'),
    (Strict, b'{"at":"2030-01-01T00:00:00Z","n":4}'),
    (Row, b'{"at":"2030-01-01T00:00:00Z","colours":{"red":1}}'),
    (Pair, b'[1,"2030-01-01"]'),
    (Message, b'{"sentAt":"2030-01-01T00:00:00Z","raw":"AAE="}'),
    (datetime, b'"2030-01-01T00:00:00Z"'),
    (dict[UUID, list[Order]], b'{"00000000-0000-0000-0000-000000000001":[{"n":1}]}'),
    (dict[date, Visit | None], b'{"2030-01-01":null}'),
    (Path, b'"/a/b"'),
    (Colour, b'"red"'),
    (deque[int], b"[1,2]"),
    (bytes, b'"text"'),
    (dict, b'{"a":[1,null]}'),
    (list, b'[{"a":1.5}]'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "raw"), ROUND)
def test_what_is_taken_as_a_payload_is_returned_as_it_came(kind: Any, raw: bytes) -> None:
    assert encode_output(decoder_of(kind, "a.b")(raw)) == raw


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (dict, b"[]"),
        (list, b"{}"),
        (dict, b"null"),
        (Annotated[int, Field(gt=0)], b"0"),
        (Message, b'{"sentAt":"yesterday","raw":""}'),
        (Visit, b"{}"),
        (Row, b'{"at":"x","colours":{}}'),
    ],
)
def test_what_does_not_fit_is_bad_input(kind: Any, raw: bytes) -> None:
    with pytest.raises(InvalidMessage, match=r"does not fit a\.b") as caught:
        decoder_of(kind, "a.b")(raw)
    assert caught.value.code is ErrorCode.INVALID_TASK
    assert caught.value.detail is not None
    assert caught.value.detail["errors"]


@dataclass
class Special(Visit):
    more: str = ""


def test_a_field_keeps_what_a_subclass_has_more() -> None:
    @dataclass
    class Diary:
        visits: list[Visit]

    at = datetime(2030, 1, 1, tzinfo=UTC)
    visit = Special(at, at.date(), timedelta(0), UUID(int=1), [], Decimal(1), more="here")
    assert b'"more":"here"' in encode_output(Diary([visit]))


@pytest.mark.parametrize("value", [(i for i in "ab"), iter([1]), b"\xff", {Pair(1, date.min): 1}])
def test_what_no_payload_can_be_is_no_output(value: object) -> None:
    with pytest.raises(InvalidMessage) as caught:
        encode_output(value)
    assert caught.value.code is ErrorCode.INVALID_OUTPUT


LATER = """
    from __future__ import annotations
    from typing import TYPE_CHECKING, Annotated
    from dataclasses import dataclass
    from pydantic import Field
    from maniple import task

    if TYPE_CHECKING:
        from maniple import TaskContext
        from nowhere import Answer

    @task("a.later")
    def later(order: Order, context: TaskContext) -> Answer: return order.number

    @task("a.annotated")
    def annotated(number: Annotated[int, Field(gt=0)]) -> Answer: return number

    @dataclass
    class Order:
        number: int
"""


def test_only_the_payloads_annotation_must_be_there_when_all_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "annotated_later.py"
    file.write_text(textwrap.dedent(LATER))
    registry = load_registry([str(file)])
    for name, bad in (("a.later", b'{"number":"many"}'), ("a.annotated", b"0")):
        definition = registry.get(name)
        assert definition is not None
        with pytest.raises(InvalidMessage):
            definition.decode(bad)
