"""Importing modules of handlers; an error names the place and what to do."""

import contextlib
import hashlib
import importlib
import importlib.util
import logging
import os
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from maniple.errors import ConfigurationError
from maniple.task_registry import TaskRegistry
from maniple.tasks import task

SUFFIX = ".py"
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals at which our processes drain and end."""
_log = logging.getLogger(__name__)
_OURS = ("<", str(Path(__file__).parent) + os.sep)  # the import system's, and this distribution's
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib"))
_PYTHON = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))


def load_registry(modules: Iterable[str], folder: Path | None = None) -> TaskRegistry:
    """Import modules by name (`package.handlers`, or a path ending in `.py`) and collect handlers.

    `folder` (the current one) is importable, and paths are relative to it. Raises
    `ConfigurationError` that names the module, file and line.
    """
    folder = folder or here()
    registry = TaskRegistry()
    loaded: dict[str, ModuleType] = {}
    for name in located(modules, folder):
        with _naming(name, folder), _keeping_signals(name):
            loaded[name] = _import(name, folder)
            registry.collect(loaded[name])
    for name, module in loaded.items():  # each may keep what another one offers
        with _naming(name, folder):
            registry.check_module(module)
    return registry


@contextlib.contextmanager
def _naming(name: str, folder: Path) -> Iterator[None]:
    """Raise an error in a module as a `ConfigurationError` that names the module."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"handlers {name!r}: {_placed(error)}") from error
    except KeyboardInterrupt:
        raise  # somebody does not want to wait for it
    except BaseException as error:
        why = f"handlers {name!r} cannot be imported: {_told(error, name, folder)}"
        raise ConfigurationError(why) from error


@contextlib.contextmanager
def _keeping_signals(name: str) -> Iterator[None]:
    """Restore signal handlers that a module replaced at import: these signals end the process.

    Only the main thread can set them, and so only it is affected.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, woken = {number: signal.getsignal(number) for number in ENDING}, _wakeup()
    try:
        yield
    finally:
        taken = [number for number in ENDING if signal.getsignal(number) != before[number]]
        for number in taken:
            with contextlib.suppress(TypeError):  # one that Python did not set
                signal.signal(number, before[number])
        if _wakeup(woken) != woken or taken:
            names = ", ".join(number.name for number in taken or ENDING)
            _log.warning("handlers %r took %s when imported; that is undone", name, names)


def _wakeup(after: int | None = None) -> int:
    """Return the descriptor by which a signal wakes the event loop, and set it to `after`."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # or one could get lost meanwhile
    try:
        before = signal.set_wakeup_fd(-1)
        with contextlib.suppress(ValueError, OSError):  # a module has closed it
            signal.set_wakeup_fd(before if after is None else after)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return before


def located(modules: Iterable[str], folder: Path) -> list[str]:
    """Return module names that work from any working directory: paths become absolute."""
    return [os.path.normpath(folder / name) if name.endswith(SUFFIX) else name for name in modules]


def here() -> Path:
    """Return the current directory. Raises `ConfigurationError` if it does not exist any more."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise ConfigurationError("the current folder is gone; start in another one") from error


def _import(name: str, folder: Path) -> ModuleType:
    _make_importable(folder)
    if not name.endswith(SUFFIX):
        if not all(name.split(".")):
            raise ConfigurationError(f"{name!r} is no name of a module; {_what_to_give(folder)}")
        with _keeping_path(name):
            module = importlib.import_module(name)
        return _itself(module, name, None)
    path = Path(name).resolve()
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}; paths are relative to {folder}")
    if path.stem in sys.stdlib_module_names:
        raise ConfigurationError(
            f"{path} is called like a module of Python's own, which whoever imports "
            f"{path.stem!r} would no longer get; give it another name"
        )
    _make_importable(path.parent)
    name = _name_for(path)
    if (known := sys.modules.get(name)) is not None:
        return known
    with _keeping_path(str(path)):
        module = _load(name, path)
    return _itself(module, name, path)


def _itself(module: Any, name: str, path: Path | None) -> ModuleType:
    """Return an imported object, if it can be searched for handlers."""
    if hasattr(module, "__dict__"):
        return cast("ModuleType", module)
    sys.modules.pop(name, None)
    if path is None and (spec := importlib.util.find_spec(name)) is not None and spec.origin:
        path = Path(spec.origin)
    raise ConfigurationError(
        f"{path or name}: it puts {_said(module)} in its own place in sys.modules, "
        "in which there is no handler; drop that"
    )


@contextlib.contextmanager
def _keeping_path(name: str) -> Iterator[None]:
    """Restore entries that a module removed from `sys.path`: later imports need them."""
    path, before = sys.path, list(sys.path)
    try:
        yield
    finally:
        left: object = sys.path
        if not isinstance(left, list):
            sys.path, left = path, []
        if taken := [folder for folder in before if folder not in left]:
            sys.path.extend(folder for folder in taken if folder not in sys.path)
            _log.warning(
                "handlers %r took %s out of sys.path when imported; that is undone",
                name,
                ", ".join(map(str, taken)),
            )


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _name_for(path: Path) -> str:
    """Return a name for a file's module: the file's own, unless another module has that."""
    taken = sys.modules.get(path.stem)
    origin = getattr(taken, "__file__", None)
    if taken is None or (origin is not None and Path(origin).resolve() == path):
        return path.stem
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} is no Python module")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return sys.modules.get(name, module)


def _placed(error: ConfigurationError) -> str:
    """Return the text of a configuration error with its place, unless it names one itself."""
    place, text = _place_of(error), _said(error, str)
    file = place.rpartition(":")[0]
    return f"{place}: {text}" if file and file not in text else text


def _told(error: BaseException, name: str, folder: Path) -> str:
    place = _place_of(error)
    at = f"{place}: " if place else ""
    text = _said(error, str)
    if isinstance(error, SyntaxError):
        if error.filename and Path(error.filename).is_file():
            at = f"{error.filename}:{error.lineno}: "
        return f"{at}{type(error).__name__}: {_said(error.msg, str)}"
    if isinstance(error, ModuleNotFoundError) and not place:
        return f"there is no module {error.name!r}; {_what_to_give(folder)}"
    if isinstance(error, ModuleNotFoundError):
        return f"{at}{text}; install it where the agent runs, or mend its name"
    if isinstance(error, ImportError) and name.endswith(SUFFIX) and "relative import" in text:
        return f"{at}{text}; name it as package.module, not by its path"
    advice = ""
    if not isinstance(error, Exception):
        advice = '; put what is not to be done then below `if __name__ == "__main__":`'
    elif isinstance(error, TypeError) and text.startswith(f"{task.__name__}() "):
        advice = "; write @task('a.name'), with options by their names"
    return f"{at}it raises {_said(error)} when it is imported{advice}"


def _said(value: object, how: Callable[[object], str] = repr) -> str:
    """Return the text of a foreign object, whatever its `__str__` raises."""
    try:
        return how(value)
    except Exception as error:  # noqa: BLE001 - as it may raise whatever it likes
        return f"{type(value).__name__} (which cannot be shown: {type(error).__name__})"


def _what_to_give(folder: Path) -> str:
    return f"give a name that can be imported in {folder}, or a path that ends in {SUFFIX}"


def _place_of(error: BaseException) -> str:
    """Return the innermost file and line of the author's code in an error's traceback.

    Installed code counts as the author's only if nothing else does.
    """
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_OURS)
    ]
    installed = [frame for frame in frames if frame.filename.startswith(_INSTALLED)]
    own = [frame for frame in frames if not frame.filename.startswith(_INSTALLED + _PYTHON)]
    theirs = own or installed
    return f"{theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
