"""Counting and judging a demonstration, and showing how it goes."""

import io
from pathlib import Path

from msgspec import Raw
from rich.console import Console

from maniple.codec import encode
from maniple.errors import ErrorCode
from maniple.messages import Failure, Result, Status
from maniple_cli.demo.analysis import Analysis
from maniple_cli.demo.screen import Lines
from maniple_cli.demo.summary import Tally, table_of

PATHS = [Path("a/x.py"), Path("a/y.py"), Path("z.py")]


def analysis(lines: int) -> Analysis:
    return Analysis(sha256="00", bytes=9, lines=lines, functions=1, complexity=2, max_complexity=1)


def succeeded(lines: int, *, agent: str = "agent-1", lost: int = 0) -> Result:
    output = Raw(encode(analysis(lines)))
    return Result(
        id="1", capability="c", status=Status.SUCCEEDED, output=output, agent=agent, lost=lost
    )


def failed() -> Result:
    error = Failure(code=ErrorCode.TIMEOUT, message="after 60 s")
    return Result(id="1", capability="c", status=Status.FAILED, error=error)


def test_a_run_is_good_when_every_result_equals_the_direct_analysis() -> None:
    tally = Tally(PATHS)
    for lines, path in enumerate(PATHS):
        tally.count_result(path, succeeded(lines, agent=f"agent-{lines % 2}", lost=lines))
        assert tally.verify(path, analysis(lines))
    summary = tally.summary(1.234)
    assert summary.good
    assert summary.last_line == "3 of 3 verified, 0 lost"
    assert summary.as_dict() == {
        "submitted": 3, "succeeded": 3, "failed": 0, "lost": 0, "verified": 3,
        "redelivered": 2, "seconds": 1.23, "agents": {"agent-0": 2, "agent-1": 1},
    }  # fmt: skip


def test_a_wrong_a_failed_and_a_missing_result_are_each_told() -> None:
    tally = Tally(PATHS)
    tally.count_result(PATHS[0], succeeded(5))
    tally.count_result(PATHS[1], failed())
    assert [tally.verify(path, analysis(6)) for path in PATHS] == [False, False, False]
    summary = tally.summary(1.0)
    assert not summary.good
    assert summary.last_line == "0 of 3 verified, 1 lost"
    assert (summary.succeeded, summary.failed) == (1, 1)
    assert list(tally.complaints()) == [
        "a/y.py: failed: timeout: after 60 s",
        "z.py: no result",
    ]


def test_a_missing_result_alone_makes_a_run_bad() -> None:
    tally = Tally(PATHS[:1])
    assert not tally.summary(1.0).good


def test_the_table_has_a_row_for_each_large_package_and_one_for_the_rest() -> None:
    analyses = {Path(f"p{number:02}/x.py"): analysis(1000 + number) for number in range(14)}
    output = io.StringIO()
    Console(file=output, width=100).print(table_of(analyses))
    lines = output.getvalue().splitlines()
    assert lines[1].split() == ["p13", "1", "1,013", "1", "2"]
    assert lines[-2].split() == ["2", "more", "packages", "2", "2,001", "2", "4"]
    assert lines[-1].split() == ["all", "14", "14,091", "14", "28"]


def test_plain_lines_come_seldom_but_the_last_one_always() -> None:
    output = io.StringIO()
    screen = Lines(Console(file=output, width=100))
    for done in range(101):
        screen.show("analysed", {"agent-1": done, "agent-2": 0}, 100)
    assert output.getvalue().splitlines() == [
        "analysed: 0 of 100 (agent-1 0, agent-2 0)",
        "analysed: 100 of 100 (agent-1 100, agent-2 0)",
    ]
