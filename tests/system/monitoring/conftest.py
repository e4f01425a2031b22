"""One watched cluster for all tests here."""

from collections.abc import AsyncIterator

import pytest

from needs import CONSUL, RABBITMQ, need
from watched_world import Watched, watched_world


@pytest.fixture(scope="package")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """Two agents, two dispatchers, two registries and a policy service."""
    need(RABBITMQ, CONSUL)
    async with watched_world(tmp_path_factory.mktemp("watched")) as made:
        yield made
