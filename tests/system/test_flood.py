"""Beside a flood of long tasks of one capability, short ones of others are answered."""

import pytest

from maniple.local.cluster import Cluster
from needs import CONSUL, RABBITMQ, need
from system.flood import NEIGHBOURS, Flood, measure, options

pytestmark = pytest.mark.timeout(300)


async def test_neighbours_of_a_flood_are_answered() -> None:
    """The floods last, so that the later ones come on top of the earlier ones."""
    need(RABBITMQ, CONSUL)
    async with Cluster(options()) as cluster:
        for capability in NEIGHBOURS:
            flood = Flood(capability, asks=20, patience=20.0)
            for name, (quiet, beside) in (await measure(cluster, flood)).items():
                assert (quiet.lost, beside.lost) == (0, 0), f"{name} beside {capability}"
