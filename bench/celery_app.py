"""What `celery -A bench.celery_app worker` runs; its settings come by the environment."""

import os
from pathlib import Path

from bench.celery_side import make_app
from bench.tally import PREFETCH_VARIABLE, TALLY_VARIABLE, URL_VARIABLE, Tally

app = make_app(
    os.environ[URL_VARIABLE],
    Tally(Path(os.environ[TALLY_VARIABLE])),
    prefetch=int(os.environ[PREFETCH_VARIABLE]),
)
