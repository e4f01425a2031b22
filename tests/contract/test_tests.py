"""Every test can fail by what it says itself: it asserts, expects an error, or calls who does."""

import ast
from collections import defaultdict
from pathlib import Path

from paths import ROOT

Function = ast.FunctionDef | ast.AsyncFunctionDef
EXPECTS = {"raises", "warns", "fail"}  # of pytest
RAISES_ITSELF = {
    "test_every_schema_is_a_schema": "`check_schema` raises, and says where it is none",
    "test_what_was_only_beside_it_is_sent_again": "what is called raises for what is refused",
}


class Functions:
    """All functions below `tests`, and which of them can fail."""

    def __init__(self) -> None:
        self.called: dict[Function, set[str]] = {}
        self.path: dict[Function, Path] = {}
        self._named: dict[object, list[Function]] = defaultdict(list)
        self.can_fail: set[Function] = set()
        for path in sorted(ROOT.glob("tests/**/*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, Function):
                    self._add(path.relative_to(ROOT), node)
        while more := {one for one in self.called if one not in self.can_fail and self._asks(one)}:
            self.can_fail |= more

    def _add(self, path: Path, function: Function) -> None:
        nodes = list(ast.walk(function))
        called = (node.func for node in nodes if isinstance(node, ast.Call))
        names = {str(getattr(one, "attr", None) or getattr(one, "id", "")) for one in called}
        self.called[function], self.path[function] = names, path
        self._named[function.name].append(function)
        self._named[path, function.name].append(function)
        if names & EXPECTS or any(isinstance(node, ast.Assert) for node in nodes):
            self.can_fail.add(function)

    def _asks(self, function: Function) -> bool:
        """Whether it calls one that can fail: of its own file, else whichever is called so."""
        path = self.path[function]
        meant = (self._named.get((path, n)) or self._named.get(n) for n in self.called[function])
        return any(all(one in self.can_fail for one in found) for found in meant if found)


def test_every_test_can_fail() -> None:
    functions = Functions()
    tests = [one for one in functions.called if one.name.startswith("test_")]
    assert len(tests) > 1000
    cannot = {
        one.name: f"{functions.path[one]}:{one.lineno}"
        for one in tests
        if one not in functions.can_fail
    }
    assert {name: at for name, at in cannot.items() if name not in RAISES_ITSELF} == {}
    assert cannot.keys() == RAISES_ITSELF.keys()
