"""Connections of this process that notice in a fraction of the time that a broker is silent.

Only the scale of time changes: the broker still sends two heartbeats in `HEARTBEAT` seconds, and
silence is still `SILENT_AFTER` ticks of the loop. The real times have one test of their own, in
`test_transport_silence.py`.
"""

import pytest

from maniple.transport import supervision
from maniple.transport.pulse import SILENT_AFTER

HEARTBEAT = 2  # AMQP knows whole seconds only; the real one is 5
TICK = 0.4
SILENCE_SECONDS = SILENT_AFTER * TICK
DROPPED_SECONDS = 3.0 * HEARTBEAT  # the broker holds what was a client's for as long


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have connections that are made from now on, until the test ends, be quick."""
    monkeypatch.setattr(supervision, "HEARTBEAT", HEARTBEAT)
    monkeypatch.setattr(supervision, "TICK", TICK)
