"""Which payload types no JSON value can have: with such a type each task would fail.

Only certain cases are reported: a type with a custom validator is accepted, and so is a field with
a default.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import inspect

_NEVER = {
    "callable": "a callable",
    "is-instance": "an object of a class",
    "is-subclass": "a class",
}
_ITEMS = ("list", "set", "frozenset", "generator")


def not_from_json(schema: Mapping[str, Any]) -> str | None:
    """Return what pydantic's core schema needs that JSON cannot express, or None."""
    return _Core().why(schema)


def not_from_json_by_msgspec(kind: type) -> str | None:
    """Return what a msgspec struct needs that JSON cannot express, or None."""
    return _Msgspec().why(inspect.type_info(kind))


@dataclass
class _Core:
    known: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    entered: set[str] = field(default_factory=set)

    def why(self, schema: Mapping[str, Any]) -> str | None:
        ref = schema.get("ref")
        if ref in self.entered:  # it has itself in it
            return None
        if ref is not None:
            self.entered.add(ref)
        kind = schema["type"]
        if kind in _NEVER:
            cls = schema.get("cls")
            name = f" ({cls.__name__})" if isinstance(cls, type) else ""
            return f"JSON has no value for {_NEVER[kind]}{name}"
        if kind == "definitions":
            self.known.update({one["ref"]: one for one in schema["definitions"]})
        return next(filter(None, map(self.why, self._needed(kind, schema))), None)

    def _needed(self, kind: str, schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Iterate over the parts that must be valid for the whole to be valid."""
        if kind in ("definitions", "model", "dataclass", "function-after"):
            yield schema["schema"]
        elif kind == "definition-ref" and schema["schema_ref"] in self.known:
            yield self.known[schema["schema_ref"]]
        elif kind in _ITEMS and "items_schema" in schema:
            yield schema["items_schema"]
        elif kind == "tuple":
            yield from schema["items_schema"]
        elif kind == "dict" and "values_schema" in schema:
            yield schema["values_schema"]
        elif kind in ("model-fields", "typed-dict", "dataclass-args"):
            yield from self._fields(kind, schema["fields"])

    def _fields(self, kind: str, fields: Any) -> Iterator[Mapping[str, Any]]:
        for one in fields.values() if isinstance(fields, Mapping) else fields:
            optional = kind == "typed-dict" and not one.get("required", True)
            if not optional and one.get("init", True) and not one.get("init_only", False):
                yield one["schema"]  # one with a default is of the type `default`


@dataclass
class _Msgspec:
    entered: set[type] = field(default_factory=set)

    def why(self, found: inspect.Type) -> str | None:
        if isinstance(found, inspect.CustomType):
            return f"JSON has no value for an object of a class ({found.cls.__name__})"
        return next(filter(None, map(self.why, self._needed(found))), None)

    def _needed(self, found: inspect.Type) -> Iterator[inspect.Type]:
        """Iterate over the parts that must be valid for the whole to be valid."""
        match found:
            case inspect.Metadata(type=inner):
                yield inner
            case inspect.CollectionType(item_type=inner):
                yield inner
            case inspect.TupleType(item_types=several):
                yield from several
            case inspect.DictType(value_type=inner):
                yield inner
            case (
                inspect.StructType(cls=cls, fields=fields)
                | inspect.DataclassType(cls=cls, fields=fields)
                | inspect.TypedDictType(cls=cls, fields=fields)
                | inspect.NamedTupleType(cls=cls, fields=fields)
            ):
                if cls not in self.entered:  # else it has itself in it
                    self.entered.add(cls)
                    yield from (one.type for one in fields if one.required)
