"""A handler that needs a package besides Maniple; `Dockerfile` makes an image of both."""

from dataclasses import dataclass
from typing import Any

import jsonschema

from maniple import task


@dataclass
class Question:
    """A document, and the JSON Schema that it shall fit."""

    document: Any
    schema: dict[str, Any]


@task("json.check", timeout=10)
def check(question: Question) -> list[str]:
    """Return what is wrong with a document; nothing if it fits."""
    validator = jsonschema.validators.validator_for(question.schema)(question.schema)
    return [error.message for error in validator.iter_errors(question.document)]
