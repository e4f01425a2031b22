"""The program's entry point: an interrupt during slow imports prints no traceback."""

import signal

from maniple_runtime.descriptors import open_missing


def main() -> None:
    """Run the program; raises `SystemExit` with its exit code."""
    open_missing()
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # or whoever started us has said that we shall not be
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from maniple_cli.main import main as program  # noqa: PLC0415 - see above

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    program()


if __name__ == "__main__":
    main()
