"""The distributions that this repository builds, and the packages in them."""

import tomllib
from pathlib import Path
from typing import Any

from paths import ROOT

_TABLE: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = tuple(ROOT / member for member in _TABLE["tool"]["uv"]["workspace"]["members"])
"""One of each distribution."""


def project(folder: Path) -> dict[str, Any]:
    """Return the project table of a distribution."""
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return table


def package_of(folder: Path) -> Path:
    """Return the folder of a distribution's only package."""
    (found,) = (path.parent for path in folder.glob("*/__init__.py"))
    return found


PACKAGES = {package_of(folder).name: folder for folder in FOLDERS}
"""The folder of the distribution for the name of its package."""
