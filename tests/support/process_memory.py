"""How much memory processes have."""

import os
from pathlib import Path

MIB = 1 << 20


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / MIB
