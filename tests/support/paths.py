"""Where the tests' own modules are."""

import os
from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent

PYTHONPATH = os.pathsep.join(map(str, (SUPPORT, TESTS)))
"""With which a process of its own finds what the tests share."""
