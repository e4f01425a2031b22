"""What `dramatiq bench.dramatiq_app` runs; its settings come by the environment."""

import os
from pathlib import Path

from bench.dramatiq_side import make_actor
from bench.tally import TALLY_VARIABLE, URL_VARIABLE, Tally

noop = make_actor(os.environ[URL_VARIABLE], Tally(Path(os.environ[TALLY_VARIABLE])))
