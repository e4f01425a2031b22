"""Makes the clock of an agent wrong; Python imports this by itself where it is on its path.

By how many seconds stands in the file that `CAMPAIGN_CLOCK` names, and is read each time.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

if sys.orig_argv[-2:] == ["-m", "maniple_agent"]:  # not in its worker processes
    import maniple_agent.wiring
    from maniple_agent.settings import AgentSettings
    from maniple_runtime.runtime import Runtime

    _file = Path(os.environ["CAMPAIGN_CLOCK"])
    _build = maniple_agent.wiring.build

    def _now() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=float(_file.read_text()))

    @asynccontextmanager
    async def _with_a_wrong_clock(
        runtime: Runtime[AgentSettings], folder: Path | None = None
    ) -> AsyncIterator[None]:
        clock = replace(runtime.clock, now=_now)
        async with _build(replace(runtime, clock=clock), folder):
            yield

    maniple_agent.wiring.build = _with_a_wrong_clock
