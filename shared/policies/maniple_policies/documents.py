"""Reading and storing documents of every kind in the table."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Union

from pydantic import Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema

from maniple.digests import canonical
from maniple_policies.bounds import CEILING, PLAIN
from maniple_policies.matching import NEW, StrictModel
from maniple_policies.policy import Policy
from maniple_policies.registry import KINDS


class _OfAKnownKind:
    """Reads a policy as the document of its `kind`, one of `KINDS`."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        known: Any = Union[tuple(KINDS.values())]  # noqa: UP007 - made of a table
        return handler.generate_schema(Annotated[known, Field(discriminator="kind")])


Document = Annotated[Policy, _OfAKnownKind]
DOCUMENT: TypeAdapter[Policy] = TypeAdapter(Document)


class InForce(StrictModel):
    """A policy and, while it is rolled out, its last whole version, which applies to the others."""

    policy: Document
    before: Document | None = None

    @cached_property
    def as_json(self) -> dict[str, Any]:
        """The JSON value, made once, because a document is in many sets: not to be changed."""
        return self.model_dump(mode="json")

    @cached_property
    def as_text(self) -> str:
        """The same as canonical JSON."""
        return canonical(self.as_json)


def _field_path(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the path of an error in a document, without pydantic's names of alternatives."""
    path = (
        part
        for before, part in zip(("policy", *loc), loc, strict=False)
        if not (before == "policy" and part in KINDS)
    )
    return tuple(part for part in path if part not in (PLAIN, CEILING))


def problems_of(error: ValidationError) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Iterate over the errors of a document: path and a sentence for its author."""
    for item in error.errors(include_url=False, include_input=False):
        path, said = _field_path(item["loc"]), item["msg"].removeprefix("Value error, ")
        if item["type"].startswith("union_tag"):
            path = (*path, "kind")
            known = f"is none of {', '.join(KINDS)}"
            said = known if item["type"] == "union_tag_invalid" else "Field required"
        yield path, said


def reasons_of(error: ValidationError) -> str:
    """Return the errors of a document in one line."""
    return "; ".join(
        f"{'.'.join(map(str, path)) or 'document'}: {said}" for path, said in problems_of(error)
    )


def parse_policy(value: Any) -> Policy:
    """Read a new document; raises `pydantic.ValidationError`."""
    return DOCUMENT.validate_python(value, context=NEW)


def known_policy(value: Any) -> Policy:
    """Read a document that is or was in force; raises `pydantic.ValidationError`."""
    return DOCUMENT.validate_python(value)
