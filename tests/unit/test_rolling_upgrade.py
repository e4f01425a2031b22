"""Programs of two releases side by side, as in an upgrade that rolls: every task ends the same.

Without servers: each part of a task's life runs in a process of the release that is its. With them:
`tests/integration/throwaway/test_mixed_releases.py`.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maniple.messages import RESULTS_TYPE
from maniple_runtime.records import Entry, FirstWins, TaskKey, decode_records
from paths import ROOT, SUPPORT
from previous_release import FAKES, sources, unpack_previous

ENDS: dict[str, list[str | None]] = {
    "one": ["succeeded", None],
    "late": ["rejected", "deadline_exceeded"],
    "fails": ["failed", "handler_error"],
    "two": ["succeeded", None],
}
OLD, NEW = False, True
MIXED = [mix for mix in itertools.product((OLD, NEW), repeat=3) if set(mix) == {OLD, NEW}]
PATIENCE = 120.0  # a guard against hanging


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous release's sources."""
    return unpack_previous(tmp_path_factory.mktemp("previous"))


@pytest.mark.parametrize(("client", "dispatcher", "agent"), MIXED)
def test_tasks_end_the_same_whatever_the_releases_of_those_who_handle_them(
    previous: Path, client: bool, dispatcher: bool, agent: bool
) -> None:
    def run(part: str, newer: bool, told: Any) -> Any:
        return part_of(ROOT if newer else previous, part, told, newer=newer)

    sent = run("submit", client, {})
    lanes = run("dispatch", dispatcher, sent)
    done = run("execute", agent, lanes)
    replies = lanes["replies"] + done["replies"]
    heard = run("hear", client, {"message_id": sent["message_id"], "replies": replies})
    assert heard == ENDS
    reader = FirstWins()
    for offset, body in enumerate(lanes["records"] + done["records"]):
        for entry in decode_records(RESULTS_TYPE, body.encode(), offset):
            assert isinstance(entry, Entry)
            reader.take(entry)
    for name in ENDS.keys() - {"late"}:
        fate = reader.get(TaskKey("default", name))
        assert fate is not None
        assert [str(end.ending.status) for end in fate.ends] == [ENDS[name][0]]


def part_of(root: Path, part: str, told: Any, *, newer: bool) -> Any:
    """Run a part in the release in `root`, and make sure that it is that one."""
    env = os.environ | {"PYTHONPATH": sources(root, FAKES)}
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            str(SUPPORT / "mixed_wire.py"),
            part,
        ],  # its fakes are of its release
        input=json.dumps(told),
        capture_output=True,
        text=True,
        check=False,
        env=env,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["newer"] == newer
    return said["said"]
