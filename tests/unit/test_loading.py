"""Files of handlers are loaded each for itself, wherever the process stands."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from maniple.errors import ConfigurationError
from maniple.loading import ENDING, load_registry, located
from paths import ROOT

HANDLER = "from maniple import task\n@task({!r})\ndef f(payload): return {!r}\n"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    path, modules, folder = list(sys.path), set(sys.modules), Path.cwd()
    yield
    sys.path[:] = path
    os.chdir(folder)
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(file: Path, text: str) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return str(file)


def test_two_files_of_one_name_are_both_loaded(tmp_path: Path) -> None:
    files = [
        write(tmp_path / side / "handlers.py", HANDLER.format(f"{side}.one", side))
        for side in ("left", "right")
    ]
    registry = load_registry([*files, files[0]])
    assert [d.capability for d in registry] == ["left.one", "right.one"]
    assert [d.function(None) for d in registry] == ["left", "right"]


@pytest.mark.parametrize("name", ["structlog.py", "my-handlers.py", "v1.2.py"])
def test_a_file_may_be_called_like_an_installed_module_or_nothing(
    tmp_path: Path, name: str
) -> None:
    theirs = sys.modules["structlog"]
    assert load_registry([write(tmp_path / name, HANDLER.format("a.b", 1))]).get("a.b") is not None
    assert sys.modules["structlog"] is theirs


def test_a_file_that_was_imported_already_is_not_loaded_twice(tmp_path: Path) -> None:
    write(tmp_path / "shop_by_name.py", HANDLER.format("a.b", 1))
    by_name = load_registry(["shop_by_name"], tmp_path).get("a.b")
    by_path = load_registry(["shop_by_name.py"], tmp_path).get("a.b")
    assert by_name is not None
    assert by_path is not None
    assert by_name.function is by_path.function


def test_a_module_that_changes_the_folder_breaks_none_after_it(tmp_path: Path) -> None:
    for number in (1, 2):
        text = f"import os\nos.chdir('/')\n{HANDLER.format(f'a.n{number}', 1)}"
        write(tmp_path / f"moves_{number}.py", text)
    os.chdir(tmp_path)
    registry = load_registry(["moves_1.py", "moves_2.py"])
    assert [d.capability for d in registry] == ["a.n1", "a.n2"]


def test_paths_mean_the_same_wherever_a_worker_is(tmp_path: Path) -> None:
    assert located(["shop.py", "shop.handlers", "/a/b.py"], tmp_path) == [
        str(tmp_path.resolve() / "shop.py"),
        "shop.handlers",
        "/a/b.py",
    ]


def test_a_file_that_failed_can_be_loaded_once_it_is_mended(tmp_path: Path) -> None:
    file = tmp_path / "mended_later.py"
    with pytest.raises(Exception, match="not yet"):
        load_registry([write(file, "raise ValueError('not yet')\n")])
    assert load_registry([write(file, HANDLER.format("a.b", "mended"))]).get("a.b") is not None


WITH_HANDLERS = [
    file for file in sorted((ROOT / "examples").rglob("*.py")) if "@task(" in file.read_text()
]


@pytest.mark.parametrize("file", WITH_HANDLERS, ids=lambda file: file.name)
def test_the_examples_can_be_loaded(file: Path) -> None:
    assert len(load_registry([str(file)])) > 0


@pytest.mark.parametrize(
    "takes",
    [
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "signal.signal(signal.SIGINT, lambda *_: None)",
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)",
        "signal.set_wakeup_fd(-1)",
    ],
)
async def test_a_module_cannot_take_the_signals_by_which_a_process_drains(
    tmp_path: Path, takes: str, caplog: pytest.LogCaptureFixture
) -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    for number in ENDING:
        loop.add_signal_handler(number, heard.set)
    try:
        text = HANDLER.format("a.b", 1) + f"import signal\n{takes}\n"
        load_registry([write(tmp_path / "takes.py", text)])
        assert "takes.py" in caplog.text
        for number in ENDING:
            heard.clear()
            os.kill(os.getpid(), number)
            async with asyncio.timeout(10):
                await heard.wait()
    finally:
        for number in ENDING:
            loop.remove_signal_handler(number)


@pytest.mark.parametrize(
    "takes", ["sys.path.clear()", "sys.path = []", "sys.path = None", "sys.path.pop()"]
)
@pytest.mark.parametrize("fails", ["", "raise ValueError"])
def test_a_module_cannot_take_the_path_by_which_others_are_found(
    tmp_path: Path, takes: str, fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = {*sys.path, str(tmp_path)}
    text = HANDLER.format("a.b", 1) + f"import sys\nsys.path.append('own')\n{takes}\n{fails}\n"
    expected = pytest.raises(ConfigurationError) if fails else contextlib.nullcontext()
    with expected:
        load_registry([write(tmp_path / f"takes_{abs(hash((takes, fails)))}.py", text)])
    assert before <= {*sys.path}
    if "pop" not in takes:  # what it added is its own
        assert "out of sys.path when imported; that is undone" in caplog.text
    sys.path[:] = [one for one in sys.path if one != "own"]


@pytest.mark.parametrize("named", ["file", "module"])
@pytest.mark.parametrize("value", ["None", "5"])
def test_a_module_that_puts_nothing_in_its_place_is_told_with_its_file(
    tmp_path: Path, named: str, value: str
) -> None:
    name = f"gone_{abs(hash((tmp_path, value)))}"
    text = HANDLER.format("a.b", 1) + f"import sys\nsys.modules[__name__] = {value}\n"
    file = write(tmp_path / f"{name}.py", text)
    given = file if named == "file" else name
    said = f"{re.escape(file)}: it puts {value} in its own place in sys.modules"
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=said):
            load_registry([given], tmp_path)


@pytest.mark.parametrize("name", ["__repr__", "__str__"])
@pytest.mark.parametrize("base", ["Exception", "BaseException", "TypeError", "ImportError"])
def test_an_error_that_cannot_be_shown_is_told_with_its_place(
    tmp_path: Path, name: str, base: str
) -> None:
    text = f"class Odd({base}):\n    def {name}(self): raise RuntimeError\nraise Odd\n"
    file = write(tmp_path / "odd.py", text)
    with pytest.raises(ConfigurationError, match=re.escape(f"{file}:3: it raises Odd")):
        load_registry([file])


@pytest.mark.parametrize("name", ["queue", "maniple", "structlog", "pydantic"])
def test_what_stands_in_the_folder_is_not_taken_for_what_an_agent_imports(
    tmp_path: Path, name: str
) -> None:
    write(tmp_path / f"{name}.py", HANDLER.format("a.b", 1))
    write(tmp_path / "wrong.py", "raise SystemError")
    ended = subprocess.run(
        [sys.executable, "-m", "maniple_agent"],
        cwd=tmp_path,
        env={"MANIPLE_HANDLERS": "wrong.py", "MANIPLE_CONSUL_URL": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, "wrong.py" in ended.stderr) == (2, True), ended.stderr
