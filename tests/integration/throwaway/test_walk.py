"""`tools/walk.py`: one task through a whole cluster, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

from needs import CONSUL, RABBITMQ, need

ROOT = Path(__file__).parents[3]
WALK = ROOT / "tools" / "walk.py"
MOST_FILES, MOST_CALLS = 30, 12
"""What whoever follows a task under no limit opens, and how many functions call each other."""


def test_a_task_is_walked_from_its_submission_to_its_result() -> None:
    need(RABBITMQ, CONSUL)
    command = [sys.executable, str(WALK), "--json", "--quiet", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for walk in told.values():
        files = {file["path"]: file for file in walk["files"]}
        assert len(files) > 5
        for path, file in files.items():
            assert file["lines"] == len((ROOT / path).read_text().splitlines())
            assert 0 < len(file["functions"]) < file["lines"]
        assert walk["lines"] == sum(file["lines"] for file in files.values())
        assert {Path(path).parts[:2] for path in files} >= {
            ("services", "agent"),
            ("services", "dispatcher"),
        }
        assert len(walk["deepest"]) > 3
        assert all((ROOT / function.partition(": ")[0]).is_file() for function in walk["deepest"])
    assert len(told["limited"]["deepest"]) > len(told["plain"]["deepest"])
    plain = "\n".join(f"{one['path']}: {one['functions']}" for one in told["plain"]["files"])
    assert len(told["plain"]["files"]) <= MOST_FILES, plain
    assert len(told["plain"]["deepest"]) <= MOST_CALLS, told["plain"]["deepest"]
