"""Ports for servers of our own: free ones, that nobody else is just about to take."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from maniple_cli.dev_cluster import ports
from maniple_cli.dev_cluster.ports import LOOPBACK, free_ports


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the choices are kept, of the test's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path / f"maniple-{os.getuid()}"


def test_ports_differ_and_can_be_listened_on() -> None:
    chosen = free_ports(5)
    assert len(set(chosen)) == 5
    for port in chosen:
        with socket.socket() as listener:
            listener.bind((LOOPBACK, port))


def test_no_port_is_given_to_two_who_have_not_begun_to_listen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ports, "LAST", ports.FIRST + 40)
    mine = free_ports(10)
    program = f"from maniple_cli.dev_cluster import ports; ports.LAST = {ports.LAST}; "
    program += "print(*ports.free_ports(10))"
    others = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    theirs = [int(port) for port in others.stdout.split()]
    assert len(theirs) == 10
    assert not set(mine) & set(theirs)


def test_a_port_may_be_given_again_when_its_time_is_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (only,) = free_ports(1)
    (kept,) = folder.iterdir()
    kept.write_text("{}")
    for end in ("FIRST", "LAST"):
        monkeypatch.setattr(ports, end, only)
    assert free_ports(1) == [only]
    with pytest.raises(OSError, match="no 1 free ports"):
        free_ports(1)
    kept.write_text(json.dumps({str(only): time.time() - ports.CHOSEN_FOR}))
    assert free_ports(1) == [only]


RUBBISH = ["", "{", "[1]", '{"x": "y"}', '{"10000": 1e300}', "null", "\udcff", "[" * 100_000]


@pytest.mark.parametrize("text", RUBBISH, ids=range(len(RUBBISH)))
def test_what_is_kept_may_be_rubbish(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "ports.json").write_text(text, errors="surrogateescape")
    assert len(free_ports(3)) == 3
    assert len(json.loads((folder / "ports.json").read_text())) >= 3


def test_a_folder_that_cannot_be_used_does_not_matter(folder: Path) -> None:
    folder.write_text("a file")
    assert len(free_ports(3)) == 3


def test_who_stands_still_with_the_lock_holds_nobody_up(folder: Path) -> None:
    free_ports(1)
    with (folder / "ports.json").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert len(free_ports(3)) == 3
