"""Makes the clock of an agent wrong; Python imports this by itself where it is on its path.

By how many seconds stands in the file that `CAMPAIGN_CLOCK` names, and is read each time.
"""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

if sys.orig_argv[-2:] == ["-m", "maniple_agent"]:  # not in its worker processes
    import maniple_agent.wiring

    _file = Path(os.environ["CAMPAIGN_CLOCK"])

    def _now() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=float(_file.read_text()))

    maniple_agent.wiring.now = _now
