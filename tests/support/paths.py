"""Where the tests' own modules are."""

import os
from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent

PYTHONPATH = os.pathsep.join(map(str, (SUPPORT, TESTS, TESTS.parent / "tools")))
"""With which a process of its own finds what the tests find."""
