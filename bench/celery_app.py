"""What `celery -A bench.celery_app worker` runs; its settings come by the environment."""

import os

from bench.celery_side import make_app
from bench.peers import PREFETCH_VARIABLE, URL_VARIABLE

app = make_app(os.environ[URL_VARIABLE], prefetch=int(os.environ[PREFETCH_VARIABLE]))
