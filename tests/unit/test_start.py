"""However a program is started and ended: descriptors that are closed, interrupts, signals."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ending import ended
from maniple_cli.dev_cluster.ports import free_ports

GUARD = 60.0  # seconds, against hanging
CLOSED = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")
COMMAND = "from maniple_cli.start import main; main()"
AWAY = ("--broker-url", "amqp://127.0.0.1:1")
INTERRUPTED_AT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from maniple_cli.start import main
main()
"""
SERVICE = """
import contextlib, os, socket, sys
from maniple_runtime.descriptors import open_missing
from maniple_runtime.process import run
from maniple_runtime.settings import ServiceSettings, load_settings

open_missing()

@contextlib.asynccontextmanager
async def build(runtime):
    with socket.socket() as one, open(sys.argv[1], "w") as told:
        told.write(f"{one.fileno()} {[os.get_inheritable(number) for number in range(3)]}")
    runtime.stopping.set()
    yield

run(load_settings(ServiceSettings), build)
"""


def in_shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with descriptors as a shell leaves them."""
    return subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirection}', sys.executable, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=GUARD,
    )


@pytest.mark.parametrize("redirection", CLOSED)
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--version",), 0),
        (("log-level", "info", *AWAY, "--consul-url", "http://127.0.0.1:1"), 3),
        (("policy", "apply", "-"), 2),
    ],
)
def test_a_command_does_without_what_is_closed(
    redirection: str, arguments: tuple[str, ...], code: int
) -> None:
    done = in_shell(redirection, "-c", COMMAND, *arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", CLOSED)
def test_a_process_opens_nothing_in_place_of_what_is_closed(
    redirection: str, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    done = in_shell(redirection, "-c", SERVICE, str(told))
    assert done.returncode == 0, done.stderr
    number, _, inheritable = told.read_text().partition(" ")
    assert int(number) > 2
    assert inheritable == "[True, True, True]"


@pytest.mark.parametrize("name", ["maniple_cli.main", "maniple_cli.commands.doctor", "typer"])
def test_an_interrupt_before_anything_runs_leaves_no_traceback(name: str) -> None:
    done = in_shell("", "-c", INTERRUPTED_AT.format(name=name), "--version")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_who_is_started_not_to_be_interrupted_is_not() -> None:
    code = INTERRUPTED_AT.format(name="maniple_cli.main")
    ignoring = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{code}"
    done = in_shell("", "-c", ignoring, "--version")
    assert (done.returncode, done.stderr) == (0, "")


READING = """
from maniple_cli.commands import bulk
from maniple_cli.main import main
from maniple.tasks import task
from maniple.testing import cluster

@task("test.echo")
async def echo(payload: int) -> int:
    return payload

bulk.connect = lambda _: cluster(echo)
main()
"""


@pytest.mark.parametrize("given", ["1\n", "1\n2\n", "1\n\n"])
def test_an_interrupt_ends_who_waits_for_its_input(given: str) -> None:
    arguments = ("submit", "test.echo", "-f", "-", "--json", *AWAY)
    process = subprocess.Popen(
        [sys.executable, "-c", READING, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
    )
    with ended(process):
        assert process.stdin is not None
        process.stdin.write(given)
        process.stdin.flush()
        assert '"succeeded"' in line(process)
        process.send_signal(signal.SIGINT)
        process.wait(GUARD)  # its input stays open
        assert process.returncode == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""


@contextlib.contextmanager
def service(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    program = """
import asyncio, contextlib, sys
from maniple_runtime.process import run
from maniple_runtime.settings import ServiceSettings, load_settings

@contextlib.asynccontextmanager
async def build(runtime):
    print("runs", flush=True)
    yield
    print("drains", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print("drained", flush=True)

run(load_settings(ServiceSettings, sys.argv[1:]), build)
"""
    process = subprocess.Popen(
        [*arguments, sys.executable, "-c", program],
        env={**os.environ, "MANIPLE_CONSUL_URL": f"http://127.0.0.1:{free_ports(1)[0]}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with ended(process):
        assert line(process) == "runs"
        yield process


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    "others",
    [
        (),
        (signal.SIGHUP,),  # a shell and the kernel both tell of a terminal that is gone
        (signal.SIGTERM,),  # and then a supervisor ends what it finds
    ],
)
def test_a_terminal_that_is_gone_drains(others: tuple[signal.Signals, ...]) -> None:
    with service() as process:
        process.send_signal(signal.SIGHUP)
        assert line(process) == "drains"
        for other in others:
            process.send_signal(other)
        out, err = process.communicate("go on\n", timeout=GUARD)
        assert (process.returncode, out) == (0, "drained\n"), err


def test_a_supervisor_that_hangs_up_too_does_not_cut_the_draining_short() -> None:
    with service() as process:
        process.terminate()
        assert line(process) == "drains"
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate("go on\n", timeout=GUARD)
        assert (process.returncode, out) == (0, "drained\n"), err


DEV = """
import asyncio, os, signal
from maniple_cli.commands import dev

async def serve(*_):
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep({seconds})
    print("goes on")
    return 0

dev._serve = serve
print(asyncio.run(dev.run(None, dev.DevScreen(), ready_file=None)))
"""


def test_a_cluster_for_development_drains_too_unless_it_runs_with_nohup() -> None:
    assert in_shell("", "-c", DEV.format(seconds=GUARD)).stdout == "0\n"
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{DEV}"
    assert in_shell("", "-c", ignoring.format(seconds=0.1)).stdout == "goes on\n0\n"


def test_nohup_is_obeyed() -> None:
    with service("nohup") as process:
        process.send_signal(signal.SIGHUP)
        process.terminate()
        assert line(process) == "drains"
        out, err = process.communicate("go on\n", timeout=GUARD)
        assert (process.returncode, out) == (0, "drained\n"), err
        assert '"name": "SIGHUP"' not in err
