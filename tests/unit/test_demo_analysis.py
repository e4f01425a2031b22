"""What the demonstration computes of a source file."""

import ast
import hashlib
from pathlib import Path

import pytest

from maniple_cli.demo.analysis import Analysis, analyse, by_package, complexities
from maniple_cli.demo.sources import find_sources, standard_library


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", [1]),
        ("x = 1 if y else 2", [2]),
        ("def f(): pass", [1, 1]),
        ("def f():\n if a and b or c: return\n else: pass", [1, 4]),
        ("def f():\n for x in y:\n  while x:\n   assert x", [1, 4]),
        ("def f():\n try: g()\n except A: pass\n except B: pass", [1, 3]),
        ("def f():\n return [x for x in y if x if not x]", [1, 4]),
        ("def f():\n match x:\n  case 1: pass\n  case _: pass", [1, 3]),
        ("def f():\n def g():\n  if x: pass\n return g", [1, 1, 2]),
        ("class C:\n async def f(self):\n  async for x in y: pass", [1, 2]),
    ],
)
def test_each_decision_adds_one_to_the_block_it_stands_in(source: str, expected: list[int]) -> None:
    assert complexities(ast.parse(source)) == expected


def test_a_file_is_described_by_its_bytes_and_its_functions(tmp_path: Path) -> None:
    source = b"def f(x):\n    return x or 1\n\nasync def g(): ..."
    file = tmp_path / "sample.py"
    file.write_bytes(source)
    assert analyse(file) == {
        "sha256": hashlib.sha256(source).hexdigest(),
        "bytes": len(source),
        "lines": 4,
        "functions": 2,
        "complexity": 4,
        "max_complexity": 2,
    }


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (b"print 'python 2'\n", "SyntaxError"),
        (b"# -*- coding: uft-8 -*-\n", "SyntaxError"),
        (b"x = '\xf6'\n", "SyntaxError"),
        (b"x = 1\0\n", ("SyntaxError", "ValueError")),  # the latter before Python 3.11.4
        (b"(" * 5000 + b")" * 5000, "SyntaxError"),
    ],
)
def test_a_file_that_is_no_python_has_an_error_and_still_its_lines(
    tmp_path: Path, source: bytes, error: str | tuple[str, ...]
) -> None:
    file = tmp_path / "bad.py"
    file.write_bytes(source)
    analysis = analyse(file)
    assert analysis["error"].startswith(error)
    assert analysis["lines"] == 1
    assert analysis["complexity"] == 0


def test_an_old_escape_warns_nobody(tmp_path: Path) -> None:
    file = tmp_path / "old.py"
    file.write_bytes(b"x = '\\d'\n")  # a warning would be an error in these tests
    assert "error" not in analyse(file)


def test_packages_add_up_their_files() -> None:
    one = Analysis(sha256="", bytes=1, lines=2, functions=3, complexity=4, max_complexity=4)
    packages = by_package({Path("a/x.py"): one, Path("a/b/y.py"): one, Path("z.py"): one})
    assert dict(packages["a"]) == {"files": 2, "lines": 4, "functions": 6, "complexity": 8}
    assert packages["(single modules)"]["files"] == 1


def test_sources_are_found_without_what_is_installed_beside_them(tmp_path: Path) -> None:
    for name in ("a.py", "p/b.py", "p/c.txt", "site-packages/d.py", "p/dist-packages/e.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert find_sources(tmp_path) == [tmp_path / "a.py", tmp_path / "p" / "b.py"]


def test_the_standard_library_is_found() -> None:
    assert (standard_library() / "asyncio" / "__init__.py").is_file()
