"""What a check is told and what it says."""

from dataclasses import dataclass
from enum import StrEnum


class CheckVerdict(StrEnum):
    """How a check ended. A warning is no failure; what was skipped was not looked at."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What a check found, and unless all is well what to do."""

    check: str
    verdict: CheckVerdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Places:
    """Where to look; what is None is skipped."""

    broker: str
    consul: str | None = None
    management: str | None = None


def judged(
    check: str, verdict: CheckVerdict, wrong: list[str], *, well: str, advice: str
) -> Finding:
    """Return a finding of this verdict if something is wrong, else that all is `well`."""
    if not wrong:
        return Finding(check, CheckVerdict.OK, well)
    return Finding(check, verdict, "; ".join(wrong), advice)
