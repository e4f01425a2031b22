"""A copy of our packages, on which a recipe of CONTRIBUTING.md is followed."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from paths import SUPPORT, TESTS
from products import FOLDERS


class Copy:
    """Our packages in a folder, to be changed there; `written` are the changed files."""

    def __init__(self, folder: Path, *packages: str) -> None:
        self._folder = folder
        self.written: set[str] = set()
        for name in packages:
            package = import_module(name)
            assert package.__file__ is not None
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(Path(package.__file__).parent, folder / name, ignore=ignored)

    def add(self, module: str, text: str) -> None:
        """Write a new module."""
        path = self._path(module)
        assert not path.exists()
        path.write_text(text)
        self.written.add(module)

    def change(self, module: ModuleType, before: str, after: str) -> None:
        """Replace a text that occurs once in a module."""
        path = self._path(module.__name__)
        text = path.read_text()
        assert text.count(before) == 1, f"{before!r} stands {text.count(before)} times in {path}"
        path.write_text(text.replace(before, after))
        self.written.add(module.__name__)

    def ask(self, program: str) -> Any:
        """Return the JSON that a program prints, run with the copy."""
        paths = map(str, (self._folder, *FOLDERS, SUPPORT, TESTS))
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _path(self, module: str) -> Path:
        return self._folder.joinpath(*module.split(".")).with_suffix(".py")
