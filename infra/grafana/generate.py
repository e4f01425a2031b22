"""Writes the dashboards: `uv run python -m infra.grafana.generate [FOLDER]`."""

import json
import sys
from pathlib import Path

from infra.grafana.boards.agents import AGENTS
from infra.grafana.boards.broker import BROKER
from infra.grafana.boards.capability import ONE_CAPABILITY
from infra.grafana.boards.overview import OVERVIEW
from infra.grafana.boards.policies import POLICIES

BOARDS = (OVERVIEW, ONE_CAPABILITY, AGENTS, POLICIES, BROKER)
DASHBOARDS = Path(__file__).parent / "dashboards"


def write(folder: Path) -> None:
    """Write a file for each dashboard."""
    for board in BOARDS:
        text = json.dumps(board.to_json(), indent=2, ensure_ascii=False)
        (folder / f"{board.name}.json").write_text(f"{text}\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else DASHBOARDS)
