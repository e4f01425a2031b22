"""The time is an argument: a process has one clock, and what needs the time is given that.

So a test, or a world in virtual time, decides what time it is, with nothing to be replaced in a
module. All product code is read, but not run, except for the command line: what somebody looks at
goes by their machine.
"""

import ast
from collections.abc import Iterator, Mapping

import pytest

from paths import ROOT

FOLDERS = ("shared/sdk", "shared/policies", "shared/runtime", "services")

READ_THE_TIME: Mapping[str, str] = {
    "shared/sdk/maniple/clock.py": "here the clock of a machine is made",
    "shared/sdk/maniple/amqp/subscription.py": "compares its own sleeps, which the loop times",
    "shared/sdk/maniple/amqp/supervision.py": "compares its own sleeps, which the loop times",
    "shared/runtime/maniple_runtime/loop_lag.py": "measures by how much the loop itself is late",
    "shared/runtime/maniple_runtime/telemetry/log_writer.py": "sleeps in the thread that has ended",
    "services/dispatcher/maniple_dispatcher/ingress/record_lookup.py": (
        "moves the end of an `asyncio.timeout`, which is a time of the loop"
    ),
}
"""Which modules do, and why."""

NAME_THE_SYSTEM_CLOCK: Mapping[str, str] = {
    "services/agent/maniple_agent/executors/worker.py": "is a process of its own, without a runtime"
}
"""Which modules of services take this machine's clock by themselves, and why."""

READINGS = {
    "monotonic",
    "monotonic_ns",
    "time",
    "time_ns",
    "perf_counter",
    "perf_counter_ns",
    "clock_gettime",
    "clock_gettime_ns",
    "localtime",
    "gmtime",
}
"""What of the module `time` tells the time."""
OF_A_DATE = {"now", "utcnow", "today"}


def _is_reading(node: ast.AST) -> bool:
    """Tell whether something reads a clock, or has what does from elsewhere than an argument."""
    match node:
        case ast.ImportFrom(module="time", names=names):
            return any(one.name in READINGS for one in names)
        case ast.Attribute(value=ast.Name(id="time"), attr=name):
            return name in READINGS
        case ast.Attribute(value=ast.Name(id="datetime" | "date"), attr=name):
            return name in OF_A_DATE
        case ast.Call(func=ast.Attribute(value=ast.Name(id="loop"), attr="time")):
            return True
        case ast.Attribute(
            value=ast.Call(
                func=ast.Attribute(attr="get_running_loop" | "get_event_loop")
                | ast.Name(id="get_running_loop" | "get_event_loop")
            ),
            attr="time",
        ):
            return True
    return False


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def _reads_time(source: ast.Module) -> bool:
    return any(map(_is_reading, ast.walk(source)))


def _names_the_system_clock(source: ast.Module) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "SYSTEM_CLOCK" for one in ast.walk(source))


def test_nothing_reads_the_time_but_what_is_known_to() -> None:
    found = {path for path, source in _modules() if _reads_time(source)}
    assert found == set(READ_THE_TIME)


def test_no_service_takes_the_clock_of_the_machine_in_place_of_its_process() -> None:
    found = {
        path
        for path, source in _modules()
        if path.startswith("services/") and _names_the_system_clock(source)
    }
    assert found == set(NAME_THE_SYSTEM_CLOCK)


@pytest.mark.parametrize(
    "line",
    [
        "from time import monotonic",
        "from time import sleep, time_ns as now",
        "import time\ntime.monotonic()",
        "clock = time.time",
        "datetime.now(UTC)",
        "today = date.today",
        "since = loop.time()",
        "clock = asyncio.get_running_loop().time",
    ],
)
def test_a_module_that_reads_the_time_is_seen(line: str) -> None:
    assert _reads_time(ast.parse(line))


@pytest.mark.parametrize(
    "line",
    [
        "from time import sleep",
        "self._monotonic()",
        "runtime.clock.now()",
        "time.now()",
        "datetime.fromtimestamp(at, UTC)",
        "clocks.time",
    ],
)
def test_a_module_that_is_given_the_time_is_not_mistaken_for_one(line: str) -> None:
    assert not _reads_time(ast.parse(line))
