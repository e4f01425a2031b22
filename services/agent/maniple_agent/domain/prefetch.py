"""How much an agent takes at once, by what it measured (`LaneMeasure`). Pure."""

import math

START_WITHIN = 0.05
MAX_PREFETCH = 256
# Of a lane, or as many as can run. Those whose results are not confirmed are among them: more of
# them make nothing faster, but each garbage collection longer.
MAX_TASKS = 2048
LARGEST_BUNDLE = 128
# A change of the prefetch costs two round trips: only made when it is worth it.
WORTH = 2.0


def prefetch_for(capacity: int, mean: float | None, bundle: float | None) -> int:
    """Return how many messages of a lane to hold: what can start within 50 ms, one to `MAX_TASKS`.

    `capacity` is the slots of the lane's executor that can be used, `mean` the seconds that a task
    takes, `bundle` how many come in a message. Unknown run times count as long, and unknown bundles
    as large.
    """
    rounds = 1.0 if mean is None else max(1.0, START_WITHIN / max(mean, 1e-6))
    together = LARGEST_BUNDLE if bundle is None else max(bundle, 1.0)
    tasks = min(capacity * rounds, max(capacity, MAX_TASKS))
    return max(1, min(MAX_PREFETCH, math.ceil(tasks / together)))


def worth_changing(current: int, wanted: int) -> bool:
    """Tell whether a lane's prefetch should be changed to `wanted`."""
    return wanted >= current * WORTH or wanted * WORTH <= current
