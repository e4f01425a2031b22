"""The results of a demonstration: counted, verified, and shown."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from maniple.codec import decode_value
from maniple.messages import Result, Status
from maniple_cli.demo.analysis import Analysis, by_package

SHOWN_PACKAGES = 12
COLUMNS = ("files", "lines", "functions", "complexity")


@dataclass(frozen=True)
class Summary:
    """The outcome in numbers.

    `lost` tasks have no result at all; `verified` results equal the direct analysis; `redelivered`
    tasks ended although an agent vanished while it held them. `agents` is how many each finished.
    """

    submitted: int
    succeeded: int
    failed: int
    lost: int
    verified: int
    redelivered: int
    seconds: float
    agents: Mapping[str, int]

    @property
    def good(self) -> bool:
        """Whether nothing is lost and everything is right."""
        return self.lost == 0 and self.verified == self.submitted

    @property
    def last_line(self) -> str:
        """The verdict in one line."""
        return f"{self.verified:,} of {self.submitted:,} verified, {self.lost:,} lost"

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return {**asdict(self), "seconds": round(self.seconds, 2)}


class Tally:
    """The results so far, by path relative to the root."""

    def __init__(self, paths: list[Path]) -> None:
        """Expect a result for each path."""
        self.paths = paths
        self.results: dict[Path, Result] = {}
        self.verified = 0

    def count_result(self, path: Path, result: Result) -> None:
        """Count a result."""
        self.results[path] = result

    def shares(self) -> Counter[str]:
        """Return how many tasks each agent has finished."""
        return Counter(result.agent or "nobody" for result in self.results.values())

    def verify(self, path: Path, expected: Analysis) -> bool:
        """Compare the result of a path with the direct analysis of the same file."""
        result = self.results.get(path)
        if result is None or result.status is not Status.SUCCEEDED:
            return False
        same = bool(decode_value(result.output) == expected)
        self.verified += same
        return same

    def succeeded(self) -> dict[Path, Analysis]:
        """Return what the agents found."""
        return {
            path: decode_value(result.output)
            for path, result in self.results.items()
            if result.status is Status.SUCCEEDED
        }

    def complaints(self) -> Iterator[str]:
        """Return why each task that did not succeed failed."""
        for path in self.paths:
            result = self.results.get(path)
            if result is None:
                yield f"{path}: no result"
            elif result.error is not None:
                yield f"{path}: {result.status}: {result.error.code}: {result.error.message}"

    def summary(self, seconds: float) -> Summary:
        """Return the outcome of a run of `seconds`."""
        ended = list(self.results.values())
        succeeded = sum(result.status is Status.SUCCEEDED for result in ended)
        return Summary(
            submitted=len(self.paths),
            succeeded=succeeded,
            failed=len(ended) - succeeded,
            lost=len(self.paths) - len(ended),
            verified=self.verified,
            redelivered=sum(result.lost > 0 for result in ended),
            seconds=seconds,
            agents=dict(sorted(self.shares().items())),
        )


def table_of(analyses: dict[Path, Analysis]) -> Table:
    """Return the largest packages by lines, the rest in one row, and the sum."""
    packages = by_package(analyses)
    largest = sorted(packages.items(), key=lambda item: -item[1]["lines"])
    shown, others = largest[:SHOWN_PACKAGES], largest[SHOWN_PACKAGES:]
    table = Table(box=None, pad_edge=False, show_footer=True)
    everything = sum(packages.values(), Counter[str]())
    table.add_column("package", footer="all")
    for column in COLUMNS:
        table.add_column(column, justify="right", footer=f"{everything[column]:,}")
    for package, numbers in shown:
        table.add_row(package, *(f"{numbers[column]:,}" for column in COLUMNS))
    if others:
        rest = sum((numbers for _, numbers in others), Counter[str]())
        name = f"{len(others)} more packages"
        table.add_row(name, *(f"{rest[column]:,}" for column in COLUMNS))
    return table
