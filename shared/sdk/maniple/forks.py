"""What a forked child of a process does not take over from it.

A child that is made by `os.fork` (`multiprocessing` does that on Linux before Python 3.14) has
every descriptor of its parent and its ways of hearing signals. A connection that it keeps stays
open when its parent dies, so that nobody hears of that death; a SIGTERM for the child would be
heard by its parent. Programs that are started by `exec` have neither: Python's descriptors are not
inheritable. A fork in C code that does not go through Python is not seen here.
"""

import contextlib
import os
import signal
import stat

_Identity = tuple[int, int]

_kept: dict[int, _Identity] = {}
"""Descriptors, and what each was of: the number alone may be of something else by now."""
_signals: set[signal.Signals] = set()
_hooked: list[bool] = []


def keep_from_children(descriptor: int) -> None:
    """Let no child that is forked from now on keep a socket or a pipe open.

    It need not be taken back: once the descriptor is closed, nothing more happens to its number.
    """
    for known in [number for number, identity in _kept.items() if _of(number) != identity]:
        del _kept[known]
    identity = _of(descriptor)
    if identity is not None:
        _kept[descriptor] = identity
        _hook()


def keep_signals_from_children(*numbers: signal.Signals) -> None:
    """Let signals do in a forked child what they do by default; its parent handles them."""
    _signals.update(numbers)
    _hook()


def _hook() -> None:
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked.append(True)
        os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    """Run in a child: it has only this thread, and what others locked stays so."""
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
    """Let go of what a descriptor is of, but keep its number: an object here may close it later."""
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
    except OSError:  # as many are open as may be
        os.close(descriptor)
        return
    os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _of(descriptor: int) -> _Identity | None:
    """Return what tells a socket or a pipe from all others that are open."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    of_kind = stat.S_ISSOCK(found.st_mode) or stat.S_ISFIFO(found.st_mode)
    return (found.st_dev, found.st_ino) if of_kind else None
