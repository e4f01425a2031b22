"""What a forked child of a process does not inherit from it.

A child that is made by `os.fork` (`multiprocessing` does that on Linux before Python 3.14) has
every descriptor and the signal handling of its parent. A connection that it keeps open stays open
when its parent dies, so that nobody notices that death; a SIGTERM for the child would be handled by
its parent. Programs that are started by `exec` have neither: Python's descriptors are not
inheritable. A fork in C code that does not go through Python is not noticed here.
"""

import contextlib
import os
import signal
import stat

_Identity = tuple[int, int]

_kept: dict[int, _Identity] = {}
"""Descriptors, and what each referred to: the number alone may be reused by now."""
_signals: set[signal.Signals] = set()
_hooked: list[bool] = []


def keep_from_children(descriptor: int) -> None:
    """Close a socket or pipe in every child that is forked from now on.

    This need not be undone: once the descriptor is closed, a reuse of its number is left alone.
    """
    for known in [number for number, identity in _kept.items() if _of(number) != identity]:
        del _kept[known]
    identity = _of(descriptor)
    if identity is not None:
        _kept[descriptor] = identity
        _hook()


def keep_signals_from_children(*numbers: signal.Signals) -> None:
    """Reset signal handling in forked children; the parent's stays as it is."""
    _signals.update(numbers)
    _hook()


def _hook() -> None:
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked.append(True)
        os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    """Run in a child, which has only this thread: locks that other threads held stay locked."""
    for descriptor, identity in _kept.items():
        if _of(descriptor) == identity:
            _empty(descriptor)
    _kept.clear()
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)  # or the parent's event loop hears what the child is told
        for number in _signals:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def _empty(descriptor: int) -> None:
    """Point a descriptor at the null device, keeping its number: an object may close it later."""
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
    except OSError:  # as many are open as may be
        os.close(descriptor)
        return
    os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _of(descriptor: int) -> _Identity | None:
    """Return an identity by which an open socket or pipe differs from all others."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    of_kind = stat.S_ISSOCK(found.st_mode) or stat.S_ISFIFO(found.st_mode)
    return (found.st_dev, found.st_ino) if of_kind else None
