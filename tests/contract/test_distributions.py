"""What is installed together: each distribution declares what it imports, and no more."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from paths import ROOT
from products import FOLDERS, PACKAGES, package_of, project

INSTALLED = packages_distributions()
# It comes with pydantic, in the one version that pydantic takes.
BEHIND = {"pydantic-core": "pydantic"}
# Its files are listed nowhere.
UNLISTED = {"consul": "python-consul2"}
# Several distributions put modules into this package.
OPENTELEMETRY = {
    "opentelemetry.exporter": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry": "opentelemetry-api",
}
LOCKED = {
    package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
}
MOST_OF_THE_SDK = 8
MOST_BYTES_OF_THE_SDK = 5_000_000
each_distribution = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(folder: Path) -> set[str]:
    """Return the names of a distribution's dependencies, without extras and versions."""
    found = (re.match(r"[\w.-]+", one) for one in project(folder)["dependencies"])
    return {normal(name.group()) for name in found if name}


def imported(text: str) -> Iterator[str]:
    """Yield the modules that a module imports, wherever in it, but for the sake of types only."""
    todo: list[ast.AST] = [ast.parse(text)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            todo.extend(ast.iter_child_nodes(node))


def distribution_of(module: str) -> str:
    """Return the name of the distribution from which a module is."""
    package = module.partition(".")[0]
    if package in PACKAGES:
        return normal(package)
    if package in UNLISTED:
        return UNLISTED[package]
    if package == "opentelemetry":
        return next(name for start, name in OPENTELEMETRY.items() if module.startswith(start))
    (name,) = {normal(one) for one in INSTALLED[package]}
    return BEHIND.get(name, name)


def needed(folder: Path) -> set[str]:
    """Return the distributions whose modules a distribution imports, but for itself."""
    texts = (path.read_text() for path in package_of(folder).rglob("*.py"))
    modules = {module for text in texts for module in imported(text)}
    other = {one for one in modules if one.partition(".")[0] not in sys.stdlib_module_names}
    return {distribution_of(module) for module in other} - {normal(package_of(folder).name)}


@each_distribution
def test_a_distribution_declares_what_it_imports_and_nothing_else(folder: Path) -> None:
    assert declared(folder) == needed(folder)


def test_every_import_is_seen() -> None:
    text = (
        "import os.path\nfrom a.b import c\ndef f():\n    import late as l\n    from . import d\n"
    )
    assert set(imported(text)) == {"os.path", "a.b", "late"}


def test_the_sdk_needs_few_libraries_and_none_of_our_own() -> None:
    names = declared(PACKAGES["maniple"])
    assert len(names) <= MOST_OF_THE_SDK
    assert not {name for name in names if name.startswith("maniple")}


def comes_with(name: str) -> set[str]:
    """Return what is installed with a distribution, on whatever system."""
    found: set[str] = set()
    todo = [name]
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            todo += (needs["name"] for needs in LOCKED[one].get("dependencies", ()))
    return found - {name}


def largest_wheel(name: str) -> int:
    """Return the bytes of a library's largest wheel for Linux on x86_64, of any Python."""
    return max(
        int(wheel["size"])
        for wheel in LOCKED[name]["wheels"]
        if re.search(r"-any\.whl$|linux.*x86_64\.whl$", wheel["url"])
    )


def test_what_comes_with_the_sdk_is_small() -> None:
    libraries = comes_with("maniple")
    assert declared(PACKAGES["maniple"]) <= libraries
    assert sum(map(largest_wheel, libraries)) <= MOST_BYTES_OF_THE_SDK


@each_distribution
def test_all_distributions_are_of_one_version(folder: Path) -> None:
    version = project(folder)["version"]
    extras = project(folder).get("optional-dependencies", {}).values()
    ours = [
        one
        for names in (project(folder)["dependencies"], *extras)
        for one in names
        if one.startswith("maniple")
    ]
    assert {one.partition("==")[2] for one in ours} <= {version}
    assert version == project(PACKAGES["maniple"])["version"]
