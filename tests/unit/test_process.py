"""`maniple_runtime.process`: a process from its start to its end, without any server."""

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ending import ended
from maniple import loops
from maniple.errors import BrokerRefused, BrokerUnavailable, ConfigurationError
from maniple_cli.dev_cluster.ports import free_ports
from maniple_runtime.process import running, serve
from maniple_runtime.runtime import Runtime
from maniple_runtime.settings import ServiceSettings
from waiting import wait_until


def settings(**changes: object) -> ServiceSettings:
    values = {"consul_url": f"http://127.0.0.1:{free_ports(1)[0]}", "instance": "x", **changes}
    return ServiceSettings.model_validate(values)


@contextlib.asynccontextmanager
async def nothing(_runtime: Runtime) -> AsyncIterator[None]:
    yield


async def test_a_process_is_ready_inside_and_draining_on_its_way_out() -> None:
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def build(runtime: Runtime) -> AsyncIterator[None]:
        seen.append("built")
        yield
        seen.append(runtime.health.status)

    async with running(settings(), build) as runtime:
        assert runtime.health.ready
        await wait_until(lambda: runtime.health.status == "degraded")  # there is no Consul here
        assert runtime.health.is_alive
    assert seen == ["built", "draining"]


async def test_a_broker_that_is_away_is_waited_for() -> None:
    tries: list[int] = []

    @contextlib.asynccontextmanager
    async def build(runtime: Runtime) -> AsyncIterator[None]:
        tries.append(1)
        runtime.spawn(asyncio.sleep(60), "left over")
        if len(tries) < 3:
            raise BrokerUnavailable("not yet")
        yield

    async with running(settings(), build) as runtime:
        assert len(tries) == 3
        assert len(runtime._tasks) == 1


async def test_a_broker_that_refuses_is_told_as_an_error_until_it_lets_us_in() -> None:
    tries: list[int] = []
    shown: list[str] = []

    @contextlib.asynccontextmanager
    async def build(runtime: Runtime) -> AsyncIterator[None]:
        tries.append(1)
        if len(tries) == 1:
            raise BrokerRefused("RabbitMQ refused the credentials")
        if len(tries) == 2:
            shown.append(str(runtime.health.snapshot()))
            raise ExceptionGroup("together", [BrokerRefused("access to queue 'x' refused")])
        yield

    with capture_logs() as logs:
        async with running(settings(), build):
            pass
    said = [one for one in logs if one["event"] == "RabbitMQ refuses this process"]
    assert [one["log_level"] for one in said] == ["error", "error"]
    assert said[0]["reason"] == "RabbitMQ refused the credentials"
    assert "MANIPLE_BROKER_URL" in said[0]["advice"]
    assert "RabbitMQ refused the credentials" in shown[0]


async def test_a_process_that_still_waits_for_its_broker_stops_at_once() -> None:
    stopping = asyncio.Event()

    @contextlib.asynccontextmanager
    async def build(_runtime: Runtime) -> AsyncIterator[None]:
        stopping.set()
        await asyncio.sleep(60)
        yield

    async with asyncio.timeout(5):
        assert await serve(settings(), build, stopping) == 0


async def test_a_crash_in_the_background_ends_the_process_with_1() -> None:
    async def crash() -> None:
        raise ZeroDivisionError

    @contextlib.asynccontextmanager
    async def build(runtime: Runtime) -> AsyncIterator[None]:
        runtime.spawn(crash(), "crash")
        yield

    async with asyncio.timeout(5):
        assert await serve(settings(), build) == 1


async def test_a_background_task_that_ends_or_is_cancelled_ends_nothing() -> None:
    async with running(settings(), nothing) as runtime:
        await runtime.spawn(asyncio.sleep(0), "done")
        cancelled = runtime.spawn(asyncio.sleep(60), "cancelled")
        cancelled.cancel()
        await asyncio.wait({cancelled})
        assert not runtime.stopping.is_set()


async def test_a_process_that_does_not_drain_is_cut_short_and_says_what_it_waited_for() -> None:
    stopping = asyncio.Event()

    async def endless() -> None:
        await asyncio.sleep(60)

    @contextlib.asynccontextmanager
    async def build(runtime: Runtime) -> AsyncIterator[None]:
        asyncio.get_running_loop().call_later(0.1, stopping.set)
        runtime.spawn(asyncio.sleep(60), "outbox")
        yield
        await endless()

    async with asyncio.timeout(8):
        with capture_logs() as said:
            assert await serve(settings(drain_timeout=0), build, stopping) == 1
    (late,) = [line for line in said if line["log_level"] == "error"]
    assert late["tasks"] == ["outbox"]
    frames = traceback.extract_tb(late["exc_info"].__traceback__)
    assert "endless" in {frame.name for frame in frames}


@pytest.mark.parametrize("times", [1, 3])
async def test_a_task_that_swallows_its_cancellation_does_not_hold_up_the_end(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "REPEAT", 0.05)

    async def stubborn() -> None:
        for _ in range(times):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.Event().wait()

    @contextlib.asynccontextmanager
    async def build(runtime: Runtime) -> AsyncIterator[None]:
        runtime.spawn(stubborn(), "stubborn")
        yield
        await runtime.cancel_spawned()

    async with asyncio.timeout(5), running(settings(drain_timeout=0), build) as runtime:
        assert runtime.spawned == ["stubborn"]
    assert runtime.spawned == []


async def test_a_start_that_swallows_its_cancellation_is_not_tried_again() -> None:
    stopping = asyncio.Event()
    tries: list[int] = []

    @contextlib.asynccontextmanager
    async def build(_runtime: Runtime) -> AsyncIterator[None]:
        tries.append(1)
        stopping.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise BrokerUnavailable("as the connection was lost") from None
        yield

    async with asyncio.timeout(5):
        assert await serve(settings(), build, stopping) == 0
    assert tries == [1]


async def test_a_blocked_loop_is_measured() -> None:
    async with running(settings(), nothing) as runtime:
        await wait_until(lambda: runtime.health.loop_lag > 0)
        time.sleep(0.6)  # noqa: ASYNC251 - blocking the loop is what is tested
        await wait_until(lambda: runtime.health.loop_lag > 0.3, 1)


async def test_a_wrong_setting_found_while_building_ends_with_2() -> None:
    def refuse() -> None:
        raise ConfigurationError("MANIPLE_X is wrong")

    @contextlib.asynccontextmanager
    async def build(_runtime: Runtime) -> AsyncIterator[None]:
        await asyncio.to_thread(refuse)
        yield

    assert await serve(settings(), build) == 2


GUARD = 30.0  # seconds, against hanging: who is stuck would be for twice as long
PROGRAM = """
import contextlib, gc, sys
from maniple_runtime.process import run
from maniple_runtime.settings import ServiceSettings, load_settings

@contextlib.asynccontextmanager
async def build(runtime):
    made = [runtime]
    if runtime.settings.instance == "own":
        gc.set_threshold(500, 5, 5)
    print(f"pages {runtime.http_url}", flush=True)
    if runtime.settings.instance == "leaves":
        runtime.stopping.set()
    yield
    if runtime.settings.instance in ("stuck", "leaves"):
        print("stuck", flush=True)
        await __import__("asyncio").sleep(60)
    if runtime.settings.instance in ("collects", "own"):
        looked_at = any(one is made for one in gc.get_objects())
        print(*gc.get_threshold(), gc.isenabled(), looked_at, flush=True)
    print("drained", flush=True)

run(load_settings(ServiceSettings, sys.argv[1:]), build)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(program: Path) -> Iterator[Start]:
    """Start the program; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, str(program), *arguments],
                env={"MANIPLE_CONSUL_URL": f"http://127.0.0.1:{free_ports(1)[0]}", **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            return stack.enter_context(ended(process))

        yield started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(start: Start, number: signal.Signals) -> None:
    process = start()
    assert process.stdout is not None
    assert process.stdout.readline().startswith("pages http://127.0.0.1:")
    process.send_signal(number)
    out, err = process.communicate(timeout=GUARD)
    assert (process.returncode, out) == (0, "drained\n"), err


@pytest.mark.parametrize(
    ("instance", "thresholds"), [("collects", "20000 20 100"), ("own", "500 5 5")]
)
def test_a_started_process_collects_seldom_and_not_what_it_was_built_of(
    start: Start, instance: str, thresholds: str
) -> None:
    process = start("--instance", instance)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    out, err = process.communicate(timeout=GUARD)
    assert out == f"{thresholds} True False\ndrained\n", err


async def test_a_process_inside_another_program_leaves_its_collector_alone() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    async with running(settings(), nothing):
        assert (gc.get_threshold(), gc.get_freeze_count()) == before


def test_a_second_signal_ends_at_once(start: Start) -> None:
    process = start("--instance", "stuck")
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.stdout.readline() == "stuck\n"
    process.terminate()
    process.communicate(timeout=GUARD)
    assert process.returncode == 1


def test_the_first_signal_does_not_cut_short_who_leaves_already(start: Start) -> None:
    process = start("--instance=leaves", "--drain-timeout=0")
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline() == "stuck\n"
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.terminate()
    process.communicate(timeout=GUARD)
    assert process.returncode == 1


def test_a_wrong_variable_ends_with_2_and_one_line(start: Start) -> None:
    process = start(MANIPLE_HTTP_PORT="many")
    _, err = process.communicate(timeout=GUARD)
    assert process.returncode == 2
    assert err.startswith("maniple-service: MANIPLE_HTTP_PORT: ")
    assert err.count("\n") == 1
