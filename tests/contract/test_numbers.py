"""No number that comes from outside is read from a truth.

Every model and every struct of ours is looked at, so that none can be forgotten.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, get_args, get_origin

import msgspec
import pytest
from msgspec import Struct
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings

from products import PACKAGES

OURS = tuple(importlib.import_module(package) for package in PACKAGES)
_SOME = {int: 1, float: 1.0, str: "", bool: True}
Within = Callable[[Any], Any]
"""Puts a number where a field has it."""


def numbers_in(annotation: Any) -> Iterator[Within]:
    """Yield how each number of a type stands in its value."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (int, float):
        yield lambda number: number
    elif origin is Annotated:
        yield from numbers_in(arguments[0])
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        for inner in numbers_in(arguments[1]):
            yield partial(_named, inner)
    elif isinstance(origin, type) and issubclass(origin, list | tuple | set | frozenset):
        several = arguments[:1] if arguments[1:] in {(), (...,)} else arguments
        for n, one in enumerate(several):
            for inner in numbers_in(one):
                yield partial(_among, n, several, inner)
    elif origin is not Callable and bool not in arguments:  # a union, or what has no number
        for one in arguments:
            yield from numbers_in(one)


def _named(inner: Within, number: Any) -> dict[str, Any]:
    return {"a": inner(number)}


def _among(place: int, types: Sequence[Any], inner: Within, number: Any) -> list[Any]:
    others = [_SOME.get(one, []) for one in types]
    return [*others[:place], inner(number), *others[place + 1 :]]


def all_of(kind: type) -> Iterator[type]:
    subclasses: list[type] = kind.__subclasses__()
    for one in subclasses:
        if one.__module__.partition(".")[0] in PACKAGES:
            yield one
        yield from all_of(one)


@pytest.fixture(scope="module", autouse=True)
def everything() -> None:
    for package in OURS:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


Field = tuple[type, str, Within]


def fields_of_models() -> Iterator[Field]:
    for model in all_of(BaseModel):
        if issubclass(model, BaseModel) and not issubclass(model, BaseSettings):
            for name, field in model.model_fields.items():
                for within in numbers_in(Annotated[field.annotation, *field.metadata, ""]):
                    yield model, name, within


def fields_of_structs() -> Iterator[Field]:
    for struct in all_of(Struct):
        for field in msgspec.structs.fields(struct):
            for within in numbers_in(field.type):
                yield struct, field.name, within


def refused_by_model(field: Field, number: Any) -> bool:
    model, name, within = field
    assert issubclass(model, BaseModel)
    try:
        model.model_validate_json(msgspec.json.encode({name: within(number)}))
    except ValidationError as error:
        return any(problem["loc"][:1] == (name,) for problem in error.errors())
    return False


def refused_by_struct(field: Field, number: Any) -> bool:
    struct, name, within = field
    try:
        msgspec.json.decode(msgspec.json.encode({name: within(number)}), type=struct)
    except msgspec.ValidationError as error:
        return f"`$.{name}" in str(error)
    return False


def named(fields: Iterable[Field]) -> set[str]:
    return {f"{model.__name__}.{name}" for model, name, _ in fields}


def test_no_model_takes_a_truth_for_a_number() -> None:
    fields = list(fields_of_models())
    assert {"Heartbeat.sequence", "AgentDescription.slots", "BoundedSeconds.max"} <= named(fields)
    assert {"RetrySpec.attempts", "RateLimitSpec.burst", "Rollback.to"} <= named(fields)
    taken = [field for field in fields for no in (True, False) if not refused_by_model(field, no)]
    assert named(taken) == set()
    assert named(field for field in fields if refused_by_model(field, 1)) == set()


def test_no_struct_takes_a_truth_or_a_text_for_a_number() -> None:
    fields = list(fields_of_structs())
    assert {"Task.max_attempts", "Envelope.clamped", "RetryPlan.base"} <= named(fields)
    taken = [field for field in fields for no in (True, "1") if not refused_by_struct(field, no)]
    assert named(taken) == set()
    assert named(field for field in fields if refused_by_struct(field, 1)) == set()
