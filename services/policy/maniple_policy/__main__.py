"""Run a policy service: `python -m maniple_policy`."""

from maniple.service.runner import run
from maniple.service.settings import load_settings
from maniple_policy.settings import PolicySettings
from maniple_policy.wiring import build


def main() -> None:
    """Run until SIGTERM."""
    run(load_settings(PolicySettings), build)


if __name__ == "__main__":
    main()
