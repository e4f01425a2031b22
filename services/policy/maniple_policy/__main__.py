"""Run a policy service: `python -m maniple_policy`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # The current folder: what is there and called like something that we import is not that.
    del sys.path[0]

from maniple_policy.settings import PolicySettings
from maniple_policy.wiring import build
from maniple_runtime.descriptors import open_missing
from maniple_runtime.process import run
from maniple_runtime.settings import load_settings


def main() -> None:
    """Run until SIGTERM."""
    open_missing()
    run(load_settings(PolicySettings, sys.argv[1:]), build)


if __name__ == "__main__":
    main()
