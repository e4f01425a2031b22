"""What `taskiq worker bench.taskiq_app:broker` runs; its settings come by the environment."""

import os
from pathlib import Path

from bench.tally import PREFETCH_VARIABLE, TALLY_VARIABLE, URL_VARIABLE, Tally
from bench.taskiq_side import make_task

broker, noop = make_task(
    os.environ[URL_VARIABLE],
    Tally(Path(os.environ[TALLY_VARIABLE])),
    prefetch=int(os.environ[PREFETCH_VARIABLE]),
)
