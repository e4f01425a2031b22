"""Run an agent: `python -m maniple_agent`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # The current folder: what is there and called like something that we import is not that.
    del sys.path[0]

from functools import partial

from maniple.errors import ConfigurationError
from maniple.loading import here
from maniple_agent.settings import AgentSettings
from maniple_agent.wiring import build
from maniple_runtime.descriptors import open_missing
from maniple_runtime.process import run
from maniple_runtime.settings import WRONG_USAGE, load_settings


def main() -> None:
    """Run until SIGTERM."""
    open_missing()
    settings = load_settings(AgentSettings, sys.argv[1:])
    try:
        folder = here()
    except ConfigurationError as error:
        sys.stderr.write(f"maniple-agent: {error}\n")
        raise SystemExit(WRONG_USAGE) from error
    # The folder as it is now: what is built again may find another one.
    run(settings, partial(build, folder=folder))


if __name__ == "__main__":
    main()
