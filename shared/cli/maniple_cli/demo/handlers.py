"""The demonstration's handler, for `MANIPLE_HANDLERS=maniple_cli.demo.handlers`."""

from pathlib import Path

from maniple.tasks import task
from maniple_cli.demo.analysis import Analysis, analyse

CAPABILITY = "demo.analyse"


@task(CAPABILITY, executor="process", timeout=60)
def analyse_file(path: str) -> Analysis:
    """Analyse the file at an absolute path, which agents and submitter share."""
    return analyse(Path(path))
