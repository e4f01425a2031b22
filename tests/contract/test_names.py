"""A method says what it does, and a class or a file is found by its name.

A method is a verb and its object: at most three classes share the name of one. What a protocol or a
base asks for does not count, nor what is private; all product code is read, but not run.
"""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT

MOST = 3  # classes that share the name of a method
TOPS = ("shared", "services")
"""Every folder below these that has a `pyproject.toml` is a distribution."""

KNOWN_METHODS: Mapping[str, int] = {}
"""How many classes still share a name; this only shrinks."""

EVERY_PACKAGE_HAS = {"__init__.py", "__main__.py"}
Sources = Mapping[Path, str]


@dataclass(frozen=True)
class Described:
    """A class as its source describes it; of a protocol `members` is all that it asks for."""

    name: str
    bases: tuple[str, ...]
    methods: frozenset[str]
    members: frozenset[str]


def distributions(root: Path, tops: Iterable[str] = TOPS) -> dict[Path, Sources]:
    """Return the sources of each distribution below `root`."""
    found = [one.parent for top in tops for one in sorted((root / top).rglob("pyproject.toml"))]
    return {one: {path: path.read_text() for path in sorted(one.rglob("*.py"))} for one in found}


def _name(base: ast.expr) -> str:
    if isinstance(base, ast.Subscript):
        return _name(base.value)
    return base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")


def _assigned(method: ast.AST) -> Iterator[str]:
    for node in ast.walk(method):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def described(source: str) -> Iterator[Described]:
    """Describe the classes in a file."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        methods, fields = set[str](), set[str]()
        for one in node.body:
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                methods.add(one.name)
                fields.update(_assigned(one))
            elif isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                fields.add(one.target.id)
        bases = tuple(map(_name, node.bases))
        yield Described(node.name, bases, frozenset(methods), frozenset(methods | fields))


def shared_methods(sources: Sources) -> dict[str, list[str]]:
    """Return by name of a method the classes that have it of their own, if they are too many."""
    classes = [one for source in sources.values() for one in described(source)]
    named = defaultdict(list)
    for one in classes:
        named[one.name].append(one)

    def bases_of(one: Described) -> set[Described]:
        found, rest = set[Described](), [one]
        while rest:
            new = {base for name in rest.pop().bases for base in named[name]} - found - {one}
            found |= new
            rest += new
        return found

    # Of one that asks for a single method every class would be one that happens to have it.
    protocols = [one for one in classes if "Protocol" in one.bases and len(one.members) > 1]
    having = defaultdict(list)
    for one in classes:
        if "Protocol" in one.bases:
            continue
        bases = bases_of(one)
        members = one.members.union(*(base.members for base in bases))
        asked = bases | {protocol for protocol in protocols if protocol.members <= members}
        for method in one.methods.difference(*(other.methods for other in asked)):
            if not method.startswith("_"):
                having[method].append(one.name)
    return {name: sorted(found) for name, found in having.items() if len(found) > MOST}


def _twice(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def shared_files(sources: Sources) -> set[str]:
    """Return what several files are called."""
    return _twice(path.name for path in sources) - EVERY_PACKAGE_HAS


def shared_classes(sources: Sources) -> set[str]:
    """Return what several classes are called."""
    return _twice(one.name for source in sources.values() for one in described(source))


def test_at_most_three_classes_share_the_name_of_a_method() -> None:
    everything = {p: s for sources in distributions(ROOT).values() for p, s in sources.items()}
    assert everything
    found = shared_methods(everything)
    assert {name: len(classes) for name, classes in found.items()} == KNOWN_METHODS, found


def test_no_two_files_or_classes_of_a_distribution_have_one_name() -> None:
    found = distributions(ROOT).values()
    assert set[str]().union(*map(shared_files, found)) == set()
    assert set[str]().union(*map(shared_classes, found)) == set()


def _tree(root: Path, files: Mapping[str, str]) -> Sources:
    for name, text in {"pyproject.toml": "", **files}.items():
        path = root / "shared" / "one" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    ((_, sources),) = distributions(root, ["shared"]).items()
    return sources


def _classes(names: Iterable[str], base: str, body: str) -> str:
    return "".join(f"class {name}({base}):\n    {body}\n\n" for name in names)


TAKES = "def take(self): ..."


def test_a_fourth_class_with_the_same_method_is_found(tmp_path: Path) -> None:
    three = _classes("ABC", "", TAKES)
    assert shared_methods(_tree(tmp_path, {"a.py": three})) == {}
    more = {"b.py": _classes("D", "", "async def take(self): ...")}
    assert shared_methods(_tree(tmp_path, more)) == {"take": ["A", "B", "C", "D"]}


def test_what_a_base_or_a_protocol_asks_for_is_not_counted(tmp_path: Path) -> None:
    protocol = "from typing import Protocol\nclass P(Protocol):\n    at: int\n    " + TAKES + "\n"
    having = _classes("ABCDE", "", TAKES + "\n    def __init__(self): self.at = 1")
    derived = _classes("VWXYZ", "Base[int]", TAKES)
    told = _classes("KLMNO", "", "def _told(self): ...\n    def __len__(self): ...")
    files = {"p.py": protocol + having, "q.py": _classes(["Base"], "", TAKES) + derived + told}
    assert shared_methods(_tree(tmp_path, files)) == {}
    bare = {"r.py": _classes("FGH", "", TAKES)}  # which have no `at`
    assert shared_methods(_tree(tmp_path, bare)) == {"take": ["Base", "F", "G", "H"]}
    single = {"p.py": protocol.replace("at: int\n    ", "") + having}
    assert len(shared_methods(_tree(tmp_path, single))["take"]) == 9


def test_a_name_that_is_given_twice_in_a_distribution_is_found(tmp_path: Path) -> None:
    sources = _tree(tmp_path, {"a/x.py": "class A: ...", "b/y.py": "class B: ..."})
    assert (shared_files(sources), shared_classes(sources)) == (set(), set())
    sources = _tree(tmp_path, {"b/x.py": "class A: ...", "a/__init__.py": "", "b/__init__.py": ""})
    assert (shared_files(sources), shared_classes(sources)) == ({"x.py"}, {"A"})
