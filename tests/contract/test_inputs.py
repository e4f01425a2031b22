"""Whatever a service takes in stands in the table of its `consumers.py`."""

import ast
from collections.abc import Iterator
from pathlib import Path

from paths import ROOT

SERVICES = ROOT / "services"
TAKES = {"subscribe", "consume", "respond", "listen", "Listener"}
ELSEWHERE = {
    "lane_consumers.py": "the queues of lanes follow from what handlers there are",
    "queue_drainer.py": "the queue of an agent that is gone is consumed until it is empty",
}


def taking(source: str) -> Iterator[str]:
    """Yield the calls by which something is taken in, but for those of the table."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        receiver, _, name = called.rpartition(".")
        if name in TAKES and receiver != "consumers" and not receiver.startswith("consumers_of"):
            yield called


def inputs_of(service: Path) -> dict[str, list[str]]:
    found = {path.name: list(taking(path.read_text())) for path in sorted(service.rglob("*.py"))}
    return {name: calls for name, calls in found.items() if calls}


def test_every_service_has_its_table() -> None:
    packages = [path.parent for path in SERVICES.glob("*/*/wiring.py")]
    assert packages
    for package in packages:
        assert "def consumers_of(" in (package / "consumers.py").read_text(), package
        assert "consumers_of(" in (package / "wiring.py").read_text(), package


def test_nothing_is_taken_in_besides() -> None:
    found = {name for service in SERVICES.iterdir() for name in inputs_of(service)}
    assert found == set(ELSEWHERE)


def test_what_is_taken_in_besides_is_found() -> None:
    source = (
        "consumers.listen(link)\nplane.subscribe(x)\nlambda: Listener(link)\nconsumers.consume(h)"
    )
    assert list(taking(source)) == ["plane.subscribe", "Listener"]
