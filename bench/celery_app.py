"""What `celery -A bench.celery_app worker` runs; its settings come by the environment."""

import os

from bench.celery_side import PREFETCH_VARIABLE, URL_VARIABLE, make_app

app = make_app(os.environ[URL_VARIABLE], prefetch=int(os.environ[PREFETCH_VARIABLE]))
