"""Run a registry: `python -m maniple_registry`."""

import sys

from maniple.descriptors import open_missing
from maniple.service.process import run
from maniple.service.settings import load_settings
from maniple_registry.settings import RegistrySettings
from maniple_registry.wiring import build


def main() -> None:
    """Run until SIGTERM."""
    open_missing()
    run(load_settings(RegistrySettings, sys.argv[1:]), build)


if __name__ == "__main__":
    main()
