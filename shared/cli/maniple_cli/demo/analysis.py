"""The analysis of one Python source file."""

import ast
import hashlib
import warnings
from collections import Counter
from pathlib import Path
from typing import NotRequired, TypedDict

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.Assert,
    ast.match_case,
)


class Analysis(TypedDict):
    """A file in numbers. `complexity` is the sum over its blocks, `max_complexity` the highest.

    A block is a function or the module's own body. A file that is no valid Python has no functions
    and no complexity, and `error` says why.
    """

    sha256: str
    bytes: int
    lines: int
    functions: int
    complexity: int
    max_complexity: int
    error: NotRequired[str]


def analyse(path: Path) -> Analysis:
    """Analyse a file. Raises `OSError` if it cannot be read, nothing else."""
    source = path.read_bytes()
    analysis = Analysis(
        sha256=hashlib.sha256(source).hexdigest(),
        bytes=len(source),
        lines=source.count(b"\n") + (not source.endswith(b"\n") and bool(source)),
        functions=0,
        complexity=0,
        max_complexity=0,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files have escapes that Python now warns of
            tree = ast.parse(source)
    except SyntaxError as error:
        return {**analysis, "error": f"SyntaxError: {error.msg}"}
    except (ValueError, RecursionError, MemoryError) as error:
        # How deep a parser gets depends on the process; its words are not part of the result.
        return {**analysis, "error": type(error).__name__}
    blocks = complexities(tree)
    return {
        **analysis,
        "functions": len(blocks) - 1,
        "complexity": sum(blocks),
        "max_complexity": max(blocks),
    }


def complexities(tree: ast.Module) -> list[int]:
    """Return the cyclomatic complexity of each block: the module's body first, then functions."""
    blocks = [1]
    todo: list[tuple[ast.AST, int]] = [(tree, 0)]
    while todo:
        node, block = todo.pop()
        if isinstance(node, _FUNCTIONS):
            block = len(blocks)
            blocks.append(1)
        else:
            blocks[block] += _decisions(node)
        todo.extend((child, block) for child in ast.iter_child_nodes(node))
    return blocks


def _decisions(node: ast.AST) -> int:
    """Return how many paths through its block a node adds."""
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return 0


def package_of(path: Path) -> str:
    """Return the package that a path relative to the root belongs to."""
    return path.parts[0] if len(path.parts) > 1 else "(single modules)"


def by_package(analyses: dict[Path, Analysis]) -> dict[str, Counter[str]]:
    """Add up `files`, `lines`, `functions` and `complexity` of each package."""
    packages: dict[str, Counter[str]] = {}
    for path, analysis in analyses.items():
        total = packages.setdefault(package_of(path), Counter())
        total["files"] += 1
        total["lines"] += analysis["lines"]
        total["functions"] += analysis["functions"]
        total["complexity"] += analysis["complexity"]
    return packages
