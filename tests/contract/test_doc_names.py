"""What a page names in backquotes is there: files, modules, functions, and events in logs."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

import pytest

from documents import PAGES, blocks
from paths import ROOT

CHANGELOG = ROOT / "CHANGELOG.md"  # tells what was there, by the names of then
LIBRARIES = {
    *("aio_pika/queue.py", "base.py", "channel.py", "robust_connection.py"),
    *("MemoryMax", "IncompatibleProtocolError", "decode"),
}
"""Files and names of others: aio-pika, aiormq, pamqp, systemd."""

SPAN = re.compile(r"`([^`]+)`")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"[\w./-]+\.(?:py|md|toml|yml|yaml|json|sh|conf)")
DOTTED = re.compile(r"maniple(?:_\w+)?(?:\.\w+)+")
CLASS = re.compile(r"([A-Z]\w*[a-z]\w*)(?:\.\w+)*")
CALLED = re.compile(r"(?:\w+\.)*(\w+)\([^()]*\)")
PROGRAMS = "maniple|make|docker|rabbitmqctl"
PHRASE = re.compile(rf"(?!(?:{PROGRAMS})\b)[a-z][a-z']*(?: [a-z']+){{2,}}")
"""At least three words that are no command: an event in a log, or what `/health` says."""
each_page = pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != CHANGELOG],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)


def spans(text: str) -> set[str]:
    """Return what stands in backquotes, outside of fenced blocks."""
    found = SPAN.findall(FENCED.sub("", text))
    return {" ".join(one.split()) for one in found}


@cache
def files() -> frozenset[str]:
    """Return the paths of the tree's files, each with a slash before it."""
    tops = (top for top in ROOT.iterdir() if top.is_dir() and not top.name.startswith("."))
    found = [*ROOT.glob("*.*"), *(path for top in tops for path in top.rglob("*.*"))]
    return frozenset(f"/{path.relative_to(ROOT).as_posix()}" for path in found)


@cache
def words() -> frozenset[str]:
    """Return what our sources give a name to, or use: identifiers, and the words of short texts."""
    found = set[str]()
    for top in ("shared", "services", "tests", "tools", "bench", "infra", "examples"):
        for path in _sources(top):
            if path != Path(__file__):
                found.update(_words_of(ast.parse(path.read_text())))
    return frozenset(found)


@cache
def said() -> str:
    """Return all that our processes may say: the texts in their sources, a line each."""
    trees = [
        ast.parse(path.read_text()) for top in ("shared", "services") for path in _sources(top)
    ]
    nodes = (node for tree in trees for node in ast.walk(tree))
    return "\n".join(
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _sources(top: str) -> Iterator[Path]:
    return (ROOT / top).rglob("*.py")


def _words_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.alias():
                yield from node.name.split(".")
            case ast.Name():
                yield node.id
            case ast.Attribute():
                yield node.attr
            case ast.Constant(value=str(text)) if " " not in text:
                yield text


def is_there(name: str) -> bool:
    """Tell whether a dotted name is a module, something in one, or a queue or the like."""
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return name in words()
    return True


def missing(text: str, own: frozenset[str] = frozenset()) -> set[str]:
    """Return what a page names that is nowhere; `own` are the names of its own programs."""
    found = set[str]()
    for span in spans(text) - LIBRARIES - own:
        if FILE.fullmatch(span):
            there = any(path.endswith(f"/{span}") for path in files())
        elif DOTTED.fullmatch(span):
            there = is_there(span)
        elif name := CLASS.fullmatch(span) or CALLED.fullmatch(span):
            there = name[1] in words() | LIBRARIES
        elif PHRASE.fullmatch(span):
            there = span in said()
        else:
            continue
        if not there:
            found.add(span)
    return found


@each_page
def test_what_a_page_names_is_there(page: Path) -> None:
    own = frozenset(block.file for block in blocks(page, "python"))
    assert missing(page.read_text(), own) == set()


def test_what_is_gone_is_found() -> None:
    gone = {
        "gone.py",
        "maniple/gone.py",
        "maniple.codec.Gone",
        "maniple.gone",
        "Gone",
        "vanished(…)",
        "agents vanish together",
    }
    there = {
        *("codec.py", "maniple/codec.py", "maniple.codec", "maniple.tasks", "Task", "connect()"),
        *("a redelivered task goes on here", "maniple vanish together", "two words"),
    }
    assert missing(" ".join(f"`{name}`" for name in gone | there)) == gone
    assert missing("```py\n`Gone`\n```\n`a\nGone`") == set()
