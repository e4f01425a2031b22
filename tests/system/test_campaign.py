"""The short form of `make campaign`."""

import time
from pathlib import Path

import pytest

from needs import CONSUL, RABBITMQ, need
from system.campaign.matrix import markdown_of
from system.campaign.run import Options, run


@pytest.mark.timeout(600)
async def test_the_short_campaign_loses_nothing_and_tells_the_truth(tmp_path: Path) -> None:
    need(RABBITMQ, CONSUL)
    options = Options(short=True, seed=int(time.time()), logs=tmp_path / "logs")
    outcome = await run(options, tmp_path, lambda *_: None)
    matrix = markdown_of(outcome.rows)
    assert not outcome.complaints, f"seed {options.seed}, logs in {options.logs}\n{matrix}"
    assert sum(row.lost for row in outcome.rows) == 0, matrix
