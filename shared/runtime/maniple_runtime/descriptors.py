"""Standard input, output and error, as whoever starts a program leaves them."""

import contextlib
import os
import sys

STANDARD = (0, 1, 2)


def open_missing() -> None:
    """Open the null device in place of what was closed before the program began.

    A connection would get such a number else: what is printed would go there, and libuv and worker
    processes take it for something else. To be called before anything is opened.
    """
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as Python's own, it stays open


def discard(number: int) -> None:
    """Let what is still to be written to a descriptor go nowhere: it takes nothing any more."""
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        os.close(nothing)
