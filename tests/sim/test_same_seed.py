"""The same seed tells the same story in every process, whatever the order of its sets."""

import os
import subprocess
import sys
from pathlib import Path

from maniple.errors import BrokerUnavailable
from paths import ROOT
from simulated_broker import Broker
from virtual_time import SEED, TOLD, Process, World

TESTS = "tests/sim/test_bulkheads.py"


def told(file: Path, hash_seed: str) -> list[str]:
    """Return what worlds have told, each in a line, in a process of their own."""
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS, "-k", "True"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, SEED: "3", TOLD: str(file)},
        stdout=subprocess.DEVNULL,
    )
    return file.read_text(encoding="utf-8").splitlines()


def test_a_seed_tells_the_same_story_whatever_strings_are_hashed_to(tmp_path: Path) -> None:
    stories = [told(tmp_path / number, number) for number in ("1", "9")]
    assert stories[0]
    assert stories[0] == stories[1]


def test_what_is_under_way_when_a_connection_is_lost_fails_in_the_order_of_its_sending() -> None:
    failed: list[int] = []
    with World(0) as world:
        process = Process(world, "p")
        wire = Broker(world, lambda: 0.01).connect(process, "p")

        async def send(number: int) -> None:
            try:
                await wire.confirmed(lambda: None)
            except BrokerUnavailable:
                failed.append(number)

        process.step(wire.connect)
        for number in range(50):
            process.run(send(number))
        wire.lose()
        world.run(1.0)
    assert failed == list(range(50))
