"""Docstrings say what is done in the field's terms: no sentence begins with a phrase of our own."""

import ast
import re
from collections.abc import Iterator

from paths import ROOT

TOPS = ("shared", "services", "tests", "tools", "bench", "infra", "examples")
OWN_PHRASES = ("Take that", "Let", "Look after")

SENTENCE = re.compile(r"(?:^|(?<=[.!?:])\s+|\n\s*\n\s*)")


def texts(tree: ast.AST) -> Iterator[str]:
    """Iterate over the docstrings of a module: also those behind attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text


def sentences(text: str) -> list[str]:
    """Return the sentences of a docstring, each in one line."""
    return [" ".join(one.split()) for one in SENTENCE.split(text) if one.strip()]


def own_phrases(source: str) -> list[str]:
    """Return the sentences in the docstrings of a module that begin with a phrase of our own."""
    beginnings = tuple(f"{phrase} " for phrase in OWN_PHRASES)
    found = (one for text in texts(ast.parse(source)) for one in sentences(text))
    return [one for one in found if one.startswith(beginnings)]


def test_no_sentence_of_a_docstring_begins_with_a_phrase_of_our_own() -> None:
    files = [path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))]
    assert len(files) > 500
    own = {
        path.relative_to(ROOT).as_posix(): found
        for path in files
        if (found := own_phrases(path.read_text()))
    }
    assert own == {}


def test_phrases_of_our_own_are_found_wherever_a_sentence_begins() -> None:
    source = '''
class A:
    """Wait. Let others run."""

    at = 1
    """Take that it is one."""

    def lets(self):
        """Return it.

        Look after
        the rest.
        """
'''
    assert {one.partition(" ")[0] for one in own_phrases(source)} == {"Let", "Take", "Look"}
    assert own_phrases('"""Letters. A lane, if we Let it. Look at it."""') == []
