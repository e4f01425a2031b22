"""A cluster of one's own is started where all of it is installed, or not at all."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from maniple_cli.dev_cluster.cluster import ClusterOptions
from maniple_cli.dev_cluster.errors import ServiceMissing
from paths import ROOT

FAILED = 1
ALONE = [ROOT / "shared" / one for one in ("sdk", "policies", "runtime", "cli")]


@pytest.mark.parametrize("command", ["dev", "demo"])
def test_the_command_line_alone_says_what_a_cluster_needs(command: str, tmp_path: Path) -> None:
    # Without `site`, and so without what links the services of a checkout into the environment.
    libraries = sysconfig.get_path("purelib")
    path = os.pathsep.join(str(one) for one in (*ALONE, libraries))
    said = subprocess.run(
        (sys.executable, "-S", "-m", "maniple_cli.start", command),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == FAILED, said
    assert "not installed: registry, policy, dispatcher, agent" in said.stdout + said.stderr
    assert "pip install 'maniple[cluster]'" in said.stdout + said.stderr
    assert not [one.name for one in tmp_path.iterdir() if one.name.startswith("maniple-")]


def test_only_what_is_to_run_has_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maniple_cli.dev_cluster.cluster.find_spec", lambda _: None)
    ClusterOptions(services=False).check_installed()
    with pytest.raises(ServiceMissing, match=r"not installed: registry, policy, dispatcher;"):
        ClusterOptions(agents=0).check_installed()
