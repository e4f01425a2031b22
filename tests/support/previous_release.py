"""Programs of an earlier release of ours, from the repository's history."""

import os
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from paths import ROOT

PREVIOUS = "4cb1ff5512888e098b176110bc72ca4e360187d0"
"""A commit before messages were read member by member; to be raised with each release."""
SERVICES = tuple(f"services/{name}" for name in ("agent", "dispatcher", "registry", "policy"))
PACKAGES = (*(f"shared/{name}" for name in ("sdk", "policies", "runtime", "cli")), *SERVICES)
"""Folders of packages; the previous release has all of `shared` in one."""
FAKES = "tests/support"


def sources(root: Path, *more: str) -> str:
    """Return a PYTHONPATH of the programs in `root`; `more` are folders there."""
    return os.pathsep.join(str(root / package) for package in ("shared", *PACKAGES, *more))


def unpack_previous(folder: Path) -> Path:
    """Unpack the previous release into a folder; skips where its commit is not."""
    made = subprocess.run(
        ["git", "-C", str(ROOT), "archive", PREVIOUS, "shared", *SERVICES, FAKES],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        reason = made.stderr.decode(errors="replace").strip()
        pytest.skip(f"the history is not here ({reason}): git fetch --unshallow")
    with tarfile.open(fileobj=BytesIO(made.stdout)) as archive:
        # An attribute, as Debian 12's Python has no such argument.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)  # noqa: S202 - what we have written ourselves
    return folder
