"""The files that the demonstration analyses."""

import sysconfig
from pathlib import Path

INSTALLED = {"site-packages", "dist-packages"}


def standard_library() -> Path:
    """Return the folder of this interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib")).resolve()


def find_sources(root: Path) -> list[Path]:
    """Return every Python source file below `root`, sorted; without installed packages."""
    return sorted(
        path
        for path in root.rglob("*.py")
        if path.is_file() and not INSTALLED.intersection(path.relative_to(root).parts)
    )
