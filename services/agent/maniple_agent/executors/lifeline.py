"""How a worker process ends with its agent, however that ends and whatever the worker is doing.

The agent holds one end of a pipe. When that closes, Linux kills the worker's process group: this
does not wait for Python, which code in C may never come back to. Elsewhere a thread reads the pipe,
which needs Python's lock. Should somebody else hold the agent's end open (a fork in C code, see
`maniple.forks`), Linux tells the worker that its parent is gone.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1
_F_SETSIG = 10  # Python's `fcntl` has no name for it


def die_with_agent(lifeline: int, agent: int) -> None:
    """End this process and its group when the agent, process `agent`, has ended.

    To be called first: what happened before is looked at here, too. From now on SIGTERM only makes
    it look again.
    """
    os.set_inheritable(lifeline, False)
    signal.signal(signal.SIGTERM, lambda *_: _end_without(agent))
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            _kill_group_at_the_end_of(lifeline)
        with contextlib.suppress(OSError, AttributeError):
            # It comes when the *thread* has ended that started this process, and may come before
            # the pipe closes. So it does not kill: what is in the group would be left.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    threading.Thread(target=_wait, args=(lifeline,), daemon=True).start()
    _end_without(agent)


def _kill_group_at_the_end_of(lifeline: int) -> None:
    if os.getpgrp() != os.getpid():
        return  # the group is somebody else's
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, _F_SETSIG, int(signal.SIGKILL))
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def _end_without(agent: int) -> None:
    if os.getppid() != agent:
        _end()


def _wait(lifeline: int) -> None:
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    _end()


def _end() -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # and what the handler has started
    os._exit(1)
