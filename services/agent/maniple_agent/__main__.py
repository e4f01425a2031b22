"""Run an agent: `python -m maniple_agent`."""

import sys
from functools import partial
from pathlib import Path

from maniple.service.runner import run
from maniple.service.settings import load_settings
from maniple_agent.settings import AgentSettings
from maniple_agent.wiring import build


def main() -> None:
    """Run until SIGTERM."""
    # The folder as it is now: what is built again may find another one.
    run(load_settings(AgentSettings, sys.argv[1:]), partial(build, folder=Path.cwd()))


if __name__ == "__main__":
    main()
