"""How often each test failed, alone and under load: counting the results of many runs."""

import json
import re
import signal
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

RUN = "(run)"
"""Stands for the test where a run ended before any test started, or after the last."""
PASSED, FAILED, SKIPPED = OUTCOMES = ("passed", "failed", "skipped")
SHOWN_LINES = 3  # of a failure's message
_NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+(\.\d+)?")


class Side(StrEnum):
    """What ran beside the tests."""

    ALONE = "alone"
    LOADED = "loaded"


@dataclass(frozen=True)
class Ended:
    """How one test ended in one run; `message` says why it did not pass."""

    test: str
    outcome: str
    seconds: float = 0.0
    where: str = ""
    message: str = ""


@dataclass(frozen=True)
class Run:
    """One process of pytest, whose full output lies in `output` if something failed."""

    side: Side
    ended: tuple[Ended, ...]
    output: Path

    @property
    def failed(self) -> list[str]:
        """The tests that failed."""
        return [one.test for one in self.ended if one.outcome == FAILED]

    @property
    def passed(self) -> list[str]:
        """The tests that passed."""
        return [one.test for one in self.ended if one.outcome == PASSED]


def read_journal(lines: Iterable[str], code: int, broken: str = "") -> tuple[Ended, ...]:
    """Return how each test of a run ended, in order; the run ended with an exit code.

    `broken` says why the run was ended from outside, if it was. That, or its death, is the failure
    of the test that was running, else of the run.
    """
    said = [json.loads(line) for line in lines]
    if not broken and [one["exit"] for one in said if "exit" in one] != [code]:
        broken = f"pytest ended with {_ending(code)}, and not by itself"
    phases: dict[str, list[dict[str, Any]]] = {}
    for one in said:
        if "test" in one:
            phases.setdefault(one["test"], []).append(one)
    ended = [_ended(test, noted, broken) for test, noted in phases.items()]
    if code and not broken and not any(one.outcome == FAILED for one in ended):
        broken = f"pytest ended with {_ending(code)}"
    if broken and not any(one.message == broken for one in ended):
        ended.append(Ended(RUN, FAILED, message=broken))
    return tuple(ended)


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _ended(test: str, noted: list[dict[str, Any]], broken: str) -> Ended:
    seconds = sum(one.get("seconds", 0.0) for one in noted)
    for outcome in (FAILED, SKIPPED):
        for one in noted:
            if one.get("outcome") == outcome:
                return Ended(test, outcome, seconds, one["where"], one["message"])
    if noted[-1]["phase"] == "teardown":
        return Ended(test, PASSED, seconds)
    return Ended(test, FAILED, seconds, message=broken)


@dataclass
class Kind:
    """Failures of one test that are the same but for numbers."""

    where: str
    message: str
    times: dict[Side, int] = field(default_factory=lambda: dict.fromkeys(Side, 0))
    outputs: list[Path] = field(default_factory=list)


@dataclass
class Tally:
    """The results of one test in all runs."""

    test: str
    ended: dict[Side, list[Ended]] = field(default_factory=lambda: {side: [] for side in Side})
    kinds: dict[str, Kind] = field(default_factory=dict)

    def count(self, side: Side, outcome: str) -> int:
        """Return in how many runs of a side it ended so."""
        return sum(one.outcome == outcome for one in self.ended[side])

    def add(self, run: Run, ended: Ended) -> None:
        """Add the result of a run."""
        self.ended[run.side].append(ended)
        if ended.outcome == FAILED:
            key = f"{ended.where} {_NUMBERS.sub('#', ended.message.partition(chr(10))[0])}"
            kind = self.kinds.setdefault(key, Kind(ended.where, ended.message))
            kind.times[run.side] += 1
            kind.outputs.append(run.output)

    def side_of(self, side: Side) -> dict[str, Any]:
        """Return its counts and seconds (in all phases) of one side."""
        seconds = [one.seconds for one in self.ended[side] if one.outcome != SKIPPED]
        counts = {name: self.count(side, name) for name in OUTCOMES}
        times = {
            "median": statistics.median(seconds) if seconds else None,
            "max": max(seconds, default=None),
        }
        return {"runs": len(self.ended[side]), **counts, **times}


def tally(runs: Iterable[Run]) -> list[Tally]:
    """Count the results of each test, the most frequent failures first."""
    found: dict[str, Tally] = {}
    for run in runs:
        for ended in run.ended:
            found.setdefault(ended.test, Tally(ended.test)).add(run, ended)
    return sorted(found.values(), key=lambda one: -sum(one.count(side, FAILED) for side in Side))


def as_json(tallies: Iterable[Tally]) -> list[dict[str, Any]]:
    """Return the counts as JSON values."""
    return [
        {
            "test": one.test,
            **{side.value: one.side_of(side) for side in Side},
            "failures": [
                {
                    "where": kind.where,
                    "message": kind.message,
                    **{side.value: kind.times[side] for side in Side},
                    "outputs": [str(path) for path in kind.outputs],
                }
                for kind in one.kinds.values()
            ],
        }
        for one in tallies
    ]


def as_text(tallies: Iterable[Tally]) -> Iterator[str]:
    """Iterate over lines for people."""
    for one in tallies:
        yield one.test
        for side in Side:
            if one.ended[side]:
                yield f"  {side:6}  {_told(one.side_of(side))}"
        for kind in one.kinds.values():
            times = ", ".join(f"{kind.times[side]} {side}" for side in Side if kind.times[side])
            yield f"  failed ({times}) {kind.where}".rstrip()
            yield from (f"    | {line}" for line in kind.message.splitlines()[:SHOWN_LINES])
            yield from (f"    {path}" for path in kind.outputs)


def _told(side: Mapping[str, Any]) -> str:
    told = f"{side[FAILED]} of {side['runs']} failed"
    if side[SKIPPED]:
        told += f", {side[SKIPPED]} skipped"
    if side["max"] is not None:
        told += f", median {side['median']:.2f} s, max {side['max']:.2f} s"
    return told
