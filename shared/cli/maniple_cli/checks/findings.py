"""What checks are given and what they return."""

from dataclasses import dataclass
from enum import StrEnum


class CheckVerdict(StrEnum):
    """How a check ended. A warning is no failure; a skipped check found nothing out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What a check found and, unless all is well, what to do."""

    check: str
    verdict: CheckVerdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Places:
    """The addresses to check; those that are None are skipped."""

    broker: str
    consul: str | None = None
    management: str | None = None


def judged(
    check: str, verdict: CheckVerdict, wrong: list[str], *, well: str, advice: str
) -> Finding:
    """Return a finding with this verdict if something is wrong, else that all is `well`."""
    if not wrong:
        return Finding(check, CheckVerdict.OK, well)
    return Finding(check, verdict, "; ".join(wrong), advice)
