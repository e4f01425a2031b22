"""What an outside publisher may do costs no dispatcher its memory, no neighbour an answer."""

import sys

import pytest

from needs import CONSUL, RABBITMQ, need
from system.floods.kinds import KINDS
from system.floods.measure import measured

SECONDS = 5.0
MOST = 150.0  # MiB

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("name", KINDS)
async def test_a_flood_ends_dispatch_for_nobody(name: str) -> None:
    need(RABBITMQ, CONSUL)
    seen = await measured(KINDS[name], SECONDS)
    sys.stdout.write(f"{name}: {seen}\n")
    assert seen.lost == 0
    assert seen.growth < MOST
