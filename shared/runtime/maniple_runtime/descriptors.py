"""Standard input, output and error, as a program inherits them."""

import contextlib
import os
import sys

STANDARD = (0, 1, 2)


def open_missing() -> None:
    """Open the null device for standard descriptors that were closed at the start.

    Otherwise a connection would get such a number: what is printed would go there, and libuv and
    worker processes would mistake it. To be called before anything is opened.
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
    """Send further output of a descriptor to the null device: its reader is gone."""
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        os.close(nothing)
