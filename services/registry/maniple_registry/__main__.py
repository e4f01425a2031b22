"""Run a registry: `python -m maniple_registry`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # The current folder: what is there and called like something that we import is not that.
    del sys.path[0]

from maniple_registry.settings import RegistrySettings
from maniple_registry.wiring import build
from maniple_runtime.descriptors import open_missing
from maniple_runtime.process import run
from maniple_runtime.settings import load_settings


def main() -> None:
    """Run until SIGTERM."""
    open_missing()
    run(load_settings(RegistrySettings, sys.argv[1:]), build)


if __name__ == "__main__":
    main()
