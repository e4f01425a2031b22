"""The ten-minute form of `make soak`."""

import asyncio
from pathlib import Path

import pytest
from rich.console import Console

from needs import CONSUL, PROC, RABBITMQ, need
from system.soak.run import Options, run
from system.soak.table import report

RATE = 500.0  # tasks a second: a quarter of the default, as CI has two cores and other work
MINUTES = 10.0


@pytest.mark.timeout(1200)
async def test_ten_minutes_of_tasks_leave_nothing_behind_and_lose_none(tmp_path: Path) -> None:
    need(RABBITMQ, CONSUL, PROC)
    options = Options(minutes=MINUTES, rate=RATE, logs=tmp_path / "logs")
    outcome = await run(options, tmp_path, lambda *_: None)
    await asyncio.to_thread(report, outcome, Console(width=140))
    assert not outcome.complaints, f"logs in {options.logs}"
