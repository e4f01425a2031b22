"""An invented kind of policy: what CONTRIBUTING.md says of a new one, followed on a copy."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from maniple.service.policies import registry
from maniple_dispatcher.pipeline import stages
from paths import PYTHONPATH

PIPELINE = stages.__name__.rpartition(".")[0]
POLICIES = registry.__name__.rpartition(".")[0]

KIND = f'''
"""`pause`: how long a task rests before it goes to its lane."""

from typing import Literal

from pydantic import Field

from {POLICIES}.matching import StrictModel
from {POLICIES}.policy import Policy


class PauseSpec(StrictModel):
    """Lets tasks rest for `seconds` before they go to their lane."""

    seconds: float = Field(gt=0, le=3600)


class PausePolicy(Policy):
    """A rest before the lane."""

    kind: Literal["pause"] = "pause"
    spec: PauseSpec
'''
STAGE = f'''
"""`pause`: a task rests before it goes to its lane. Pure."""

from maniple.messages import Envelope, Waiting
from {POLICIES}.kinds.pause import PausePolicy
from {PIPELINE}.verdicts import Delay, State, Verdict


def decide(_task: Envelope, policy: PausePolicy, _state: State, _now: float) -> Verdict:
    """Let every task rest."""
    return Delay(policy.spec.seconds, Waiting.NOT_DUE, "paused")
'''
DOCUMENT = {"kind": "pause", "name": "it", "spec": {"seconds": 7}}


class Copy:
    """Our packages in a folder, to be changed there; `written` are the files that have been."""

    def __init__(self, folder: Path, *packages: str) -> None:
        self._folder = folder
        self.written: set[str] = set()
        for name in packages:
            package = import_module(name)
            assert package.__file__ is not None
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(Path(package.__file__).parent, folder / name, ignore=ignored)

    def add(self, module: str, text: str) -> None:
        """Write a module that is new."""
        path = self._path(module)
        assert not path.exists()
        path.write_text(text)
        self.written.add(module)

    def change(self, module: ModuleType, before: str, after: str) -> None:
        """Put a text in the place of another that stands once in a module."""
        path = self._path(module.__name__)
        text = path.read_text()
        assert text.count(before) == 1, f"{before!r} stands {text.count(before)} times in {path}"
        path.write_text(text.replace(before, after))
        self.written.add(module.__name__)

    def ask(self, program: str) -> Any:
        """Return the JSON that a program prints that runs with the copy."""
        paths = [str(self._folder), PYTHONPATH, os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _path(self, module: str) -> Path:
        return self._folder.joinpath(*module.split(".")).with_suffix(".py")


def declared_in(copy: Copy) -> None:
    """Write the invented kind and enter it in the table."""
    module = f"{POLICIES}.kinds.pause"
    copy.add(module, KIND.lstrip())
    imported = "\n\n_DOCUMENTS: tuple"
    copy.change(registry, imported, f"\nfrom {module} import PausePolicy{imported}")
    copy.change(registry, "    RateLimitPolicy,\n", "    RateLimitPolicy,\n    PausePolicy,\n")


def enforced_in(copy: Copy) -> None:
    """Write the stage of the invented kind and enter it in the order of the stages."""
    module = f"{PIPELINE}.pause"
    copy.add(module, STAGE.lstrip())
    imported = "\n\n_Kind = TypeVar"
    lines = f"from {module} import decide as pause\nfrom {POLICIES}.kinds.pause import PausePolicy"
    copy.change(stages, imported, f"\n{lines}{imported}")
    last = "Stage(RateLimitPolicy, rate_limit.decide),"
    copy.change(stages, last, f"{last} Stage(PausePolicy, pause),")
