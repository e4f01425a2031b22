"""The demonstration's handler, for `MANIPLE_HANDLERS=maniple.demo.handlers`."""

from pathlib import Path

from maniple.demo.analysis import Analysis, analyse
from maniple.tasks import task

CAPABILITY = "demo.analyse"


@task(CAPABILITY, executor="process", timeout=60)
def analyse_file(path: str) -> Analysis:
    """Analyse the file at an absolute path, which agents and submitter share."""
    return analyse(Path(path))
