"""How late a process's event loop is, and with it what its metrics say of its health."""

import asyncio
import sys

from maniple_runtime import metric_names
from maniple_runtime.health import Health
from maniple_runtime.telemetry import Metrics, dropped_lines

LAG_PERIOD = 0.25
LAG_WINDOW = 20  # periods over which the worst lag is kept
LAG_LIMIT = 1.0


async def measure_lag(health: Health, metrics: Metrics) -> None:
    """Measure until cancelled; show the components of `health`, and the log lines dropped, too."""
    loop = asyncio.get_running_loop()
    gauge = metrics.gauge(metric_names.LOOP_LAG)
    lost, counted = metrics.counter(metric_names.LOG_LINES_DROPPED), 0
    recent = [0.0] * LAG_WINDOW
    for turn in range(sys.maxsize):
        due = loop.time() + LAG_PERIOD
        await asyncio.sleep(LAG_PERIOD)
        recent[turn % LAG_WINDOW] = max(0.0, loop.time() - due)
        worst = health.loop_lag = max(recent)
        gauge.set(worst)
        late = worst >= LAG_LIMIT
        health.set("loop", ok=not late, detail=f"{worst:.2f} s late" if late else "")
        _show_health(health, metrics)
        dropped = dropped_lines()
        lost.inc(max(0, dropped - counted))
        counted = dropped


def _show_health(health: Health, metrics: Metrics) -> None:
    metrics.gauge(metric_names.READY).set(health.ready)
    for component, ok in health.components.items():
        metrics.gauge(metric_names.COMPONENT_OK, component).set(ok)
