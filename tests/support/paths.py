"""Folders of the tests' own modules."""

import os
from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent

PYTHONPATH = os.pathsep.join(map(str, (SUPPORT, TESTS)))
"""Makes the tests' shared modules importable in other processes."""


def left_in(temporary: Path) -> list[str]:
    """Return what programs left in their temporary folder.

    Except the list of ports that were given out, which is the user's and no cluster's.
    """
    ours = f"maniple-{os.getuid()}"
    return [path.name for path in temporary.iterdir() if path.name != ours]
