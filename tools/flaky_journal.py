"""pytest with a journal of each test, written while it runs: a crash loses no line of it.

`python tools/flaky_journal.py JOURNAL [argument of pytest]...`; each line of the journal is a JSON
object: `{"test", "phase": "begun"}`, then one for each phase with its `seconds` and, if it did not
pass, `outcome`, `where` and `message`; at the end `{"exit": code}`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest


class Journal:
    """Writes a line when a test starts and when it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Write that a test starts."""
        self._note(test=nodeid, phase="begun")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write how a phase of a test ended."""
        said = {"test": report.nodeid, "phase": report.when, "seconds": report.duration}
        self._note(**said, outcome=report.outcome, **_why(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Write that a module cannot be imported: none of its tests runs."""
        if report.failed:
            said = {"test": report.nodeid, "phase": "collect", "seconds": 0.0}
            self._note(**said, outcome=report.outcome, **_why(report))

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the exit code."""
        self._note(exit=int(exitstatus))

    def _note(self, **said: Any) -> None:
        with self._path.open("a") as journal:
            journal.write(json.dumps(said) + "\n")


def _why(report: pytest.TestReport | pytest.CollectReport) -> dict[str, str]:
    """Return place and message of a failure, or the reason of a skip."""
    if report.passed:
        return {}
    match report.longrepr:
        case tuple((path, line, reason)):
            return {"where": f"{path}:{line}", "message": str(reason)}
        case said:
            crash = getattr(said, "reprcrash", None)
            if crash is None:
                return {"where": "", "message": str(said)}
            return {"where": f"{crash.path}:{crash.lineno}", "message": crash.message}


if __name__ == "__main__":
    sys.path.pop(0)  # as `pytest` has it: this folder only where the project says so
    sys.exit(pytest.main(sys.argv[2:], plugins=[Journal(Path(sys.argv[1]))]))
