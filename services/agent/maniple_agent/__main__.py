"""Run an agent: `python -m maniple_agent`."""

import sys

from maniple.descriptors import open_missing
from maniple.service.runner import run
from maniple.service.settings import load_settings
from maniple_agent.settings import AgentSettings
from maniple_agent.wiring import build


def main() -> None:
    """Run until SIGTERM."""
    open_missing()
    run(load_settings(AgentSettings, sys.argv[1:]), build)


if __name__ == "__main__":
    main()
