"""Waiting until a server answers: it does, a child has died, or time is up."""

from typing import Any

import pytest

from maniple_cli.dev_cluster import readiness
from maniple_cli.dev_cluster.errors import StartFailed
from maniple_cli.dev_cluster.readiness import until_ready


class Server:
    """A child that answers from its `answers`th question on, and dies at its `dies`th."""

    def __init__(self, *, answers: int, dies: int) -> None:
        self.asked, self._answers, self._dies = 0, answers, dies

    @property
    def running(self) -> bool:
        return self.asked < self._dies

    def describe(self) -> str:
        return "its log"

    async def ready(self) -> bool:
        self.asked += 1
        return self.asked >= self._answers


async def wait_for(server: Any, seconds: float) -> None:
    await until_ready("It", server.ready, children=[server], seconds=seconds)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "POLL", 0.001)


async def test_a_server_is_asked_until_it_answers() -> None:
    server = Server(answers=3, dies=9)
    await wait_for(server, 5.0)
    assert server.asked == 3


async def test_a_server_that_has_died_is_not_asked_again() -> None:
    server = Server(answers=9, dies=2)
    with pytest.raises(StartFailed, match=r"^It did not start\. its log$"):
        await wait_for(server, 5.0)
    assert server.asked == 2


async def test_a_server_that_does_not_answer_in_time_is_given_up() -> None:
    server = Server(answers=10**9, dies=10**9)
    with pytest.raises(StartFailed, match=r"^It was not ready after 0\.05 s\. its log$"):
        await wait_for(server, 0.05)
    assert server.asked > 2
