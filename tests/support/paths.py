"""Where the tests' own modules are."""

import os
from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent

PYTHONPATH = os.pathsep.join([str(SUPPORT), str(TESTS)])
"""With which a process of its own finds the handlers of the tests."""
