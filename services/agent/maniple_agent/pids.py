"""Processes of this machine by their numbers."""

import os


def exists(pid: int) -> bool:
    """Tell whether there is a process with this number, whoever's it is; a zombie is one, too."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
