"""A new author's mistakes: what was written, and what the start says of it.

Each message names the file and the line that is marked with `# here`, and says what to do.
"""

import importlib
import re
import sys
import textwrap
from pathlib import Path

import pytest

from maniple import loading
from maniple.errors import ConfigurationError
from maniple.loading import load_registry

HEAD = "from maniple import RetryPlan, TaskContext, task\n"
GUARD = """
def guard(function):
    def guarded(payload):
        return function(payload)
    return guarded
"""

OPTIONS = [
    ("@task('shop.total', timeout='abc')  # here\ndef f(payload): ...", "a number above 0"),
    ("@task('shop.total', retries=3)  # here\ndef f(payload): ...", "no option 'retries'; there"),
    ("@task('shop.total', exclusive=True)  # here\ndef f(payload): ...", "make it an async def"),
    ("@task('shop.total', executor='async')  # here\ndef f(payload): ...", "wants an async def"),
    ("@task('shop.total', executor='thread')  # here\nasync def f(p): ...", "a plain function"),
    ("@task('Shop Total')  # here\ndef f(payload): ...", "dotted lower-case name such as"),
    ("@task  # here\ndef f(payload): ...", "write @task('a.name')"),
    ("@task()  # here\ndef f(payload): ...", "write @task('a.name')"),
    ("@task(3)  # here\ndef f(payload): ...", "write @task('a.name')"),
    ("@task('shop.total', 30)  # here\ndef f(payload): ...", "write @task('a.name'), with options"),
]
DECORATORS = [
    (f"{GUARD}\n@guard  # here\n@task('shop.total')\ndef f(payload): ...", "functools.wraps"),
    (
        (
            "class Guard:\n    def __init__(self, f): self.f = f\n    def __call__(self, p): ...\n"
            "@Guard  # here\n@task('shop.total')\ndef f(payload): ..."
        ),
        "Guard above it hides its @task",
    ),
    (
        (
            "def loose(function):\n    def any_of(*args): return function(*args)  # here\n"
            "    return any_of\n@task('shop.total')\n@loose\ndef f(payload): ..."
        ),
        "give that one functools.wraps",
    ),
    (
        "class Shop:\n    @task('shop.total')  # here\n    def f(self, payload): ...",
        "a method is no",
    ),
    (
        "class Shop:\n    @task('a.b')  # here\n    @staticmethod\n    def f(payload): ...",
        "a method is no",
    ),
    ("@task('shop.total')  # here\nclass Total:\n    def __init__(self, p): ...", "a class is no"),
    (
        "class Shop:\n    @task('shop.total')  # here\n    @property\n    def f(self): ...",
        "property",
    ),
    (
        (
            "class Guard:\n    __slots__ = ('__f', 'other')\n"
            "    def __init__(self, f): self.__f = f\n"
            "    def __call__(self, p): return self.__f(p)\n"
            "class Strict(Guard):\n    __slots__ = ()\n"
            "@Strict  # here\n@task('shop.total')\ndef f(payload): ..."
        ),
        "Strict above it hides its @task",
    ),
    (
        (
            "class Guard:\n    def __init__(self, f): self.kept = {'f': f}\n"
            "    def __call__(self, p): ...\n"
            "@Guard  # here\n@task('shop.total')\ndef f(payload): ..."
        ),
        "Guard above it hides its @task",
    ),
    (
        (
            "def guard(f):\n    kept = [f]\n"
            "    def guarded(p): return kept[0](p)\n    return guarded\n"
            "@guard  # here\n@task('shop.total')\ndef f(payload): ..."
        ),
        "guarded above it hides its @task; write @task above that",
    ),
    (
        (
            "import functools\ndef call(p, f): return f(p)\n"
            "def guard(f): return functools.partial(call, f=f)\n"
            "@guard  # here\n@task('shop.total')\ndef f(payload): ..."
        ),
        "partial above it hides its @task",
    ),
    (
        "@property  # here\n@task('shop.total')\ndef f(payload): ...",
        "the property above it, which only a class has a use for, hides its @task; drop that",
    ),
    ("@classmethod  # here\n@task('shop.total')\ndef f(payload): ...", "the classmethod above it"),
    (
        (
            "import functools\n@functools.cached_property  # here\n@task('shop.total')\n"
            "def f(payload): ..."
        ),
        "the cached_property above it",
    ),
    (
        "class Shop:\n    @property  # here\n    @task('shop.total')\n    def f(self): ...",
        "a method is no",
    ),
    ("@task('shop.total')  # here\ndef f(payload):\n    yield 1", "return a list"),
    ("@task('shop.total')  # here\nasync def f(payload):\n    yield 1", "return a list"),
    ("f = task('shop.total')(print)  # here", "cannot be marked; mark the def itself"),
    ("@task('shop.total')  # here\ndef f(): ...", "takes (payload) or (payload, context), not 0"),
    (
        "@task('shop.total')  # here\ndef f(payload, *, strict): ...",
        "'strict': give that a default",
    ),
    ("@task('shop.total')  # here\ndef f(price: int, count: int): ...", "take one payload of both"),
    (
        "@task('shop.total')  # here\ndef f(p): ...\n@task('shop.total')\ndef g(p): ...",
        "give one another name",
    ),
]
DROPPED = [
    (
        "@task('shop.a')  # here\ndef f(p): ...\n@task('shop.b')\ndef f(p): ...",
        "shop.a: nothing in its module leads to it any more",
    ),
    (
        (
            "def noted(function): print(function)\n@noted  # here\n@task('shop.a')\n"
            "def f(p): ...\n@task('shop.b')\ndef g(p): ..."
        ),
        "shop.a: nothing in its module leads to it any more",
    ),
    (
        "@task('shop.a')  # here\n@task('shop.b')\ndef f(p): ...",
        "shop.b: it is marked again, as 'shop.a'",
    ),
    ("@task('shop.a')  # here\ndef f(context: TaskContext, payload): ...", "the payload first"),
    ("@task('shop.a')  # here\ndef f(context: 'TaskContext'): ...", "the payload first"),
    ("@task('shop.a')  # here\ndef f(c: 'TaskContext | None'): ...", "the payload first"),
    ("@task('shop.a')  # here\ndef f(p, retries: int | None = None): ...", "no context"),
    ("@task('shop.a')  # here\ndef f(p, verbose=False): ...", "no context"),
    ("import uuid\n@task('shop.a')  # here\ndef f(p, u: uuid.UUID): ...", "no context"),
    (
        (
            "from typing import TypedDict\nclass T(TypedDict):\n    n: int\n"
            "@task('shop.a')  # here\ndef f(p, t: T): ..."
        ),
        "no context",
    ),
    (
        "import typing\n@task('shop.a')  # here\ndef f(p, n: typing.Annotated[int, 1]): ...",
        "no context",
    ),
    (
        (
            "from pydantic import BaseModel\nclass A(BaseModel): ...\nclass B(BaseModel): ...\n"
            "@task('shop.a')  # here\ndef f(a: A, b: 'B'): ..."
        ),
        "take one payload of both",
    ),
    (
        (
            "import dataclasses\n@dataclasses.dataclass\nclass A: ...\n"
            "@task('shop.a')  # here\ndef f(a: A, b: A): ..."
        ),
        "take one payload of both",
    ),
    (
        (
            "import dataclasses\n@dataclasses.dataclass\nclass A: ...\n"
            "@task('shop.a')  # here\ndef f(a: A, b: list[A]): ..."
        ),
        "take one payload of both",
    ),
]
TYPES = [
    (
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from shop import Order\n"
            "@task('shop.total')  # here\ndef f(order: 'Order'): ..."
        ),
        "import what it names outside `if TYPE_CHECKING:`",
    ),
    ("@task('shop.total')  # here\ndef f(order: 'dict[str, Itn]'): ...", "mend its spelling"),
    (
        "class Order: ...\n@task('shop.total')  # here\ndef f(order: Order): ...",
        "take a pydantic model, a dataclass",
    ),
    (
        (
            "from pydantic import BaseModel\nclass Order(BaseModel):\n    item: 'Nothing'\n"
            "@task('shop.total')  # here\ndef f(order: Order): ..."
        ),
        "'Nothing' is not defined",
    ),
    (
        "import threading\n@task('shop.total')  # here\ndef f(order: list[threading.Lock]): ...",
        "or leave the annotation out",
    ),
    (
        (
            "import msgspec\nclass Lock: ...\nclass Order(msgspec.Struct):\n    lock: Lock\n"
            "@task('shop.total')  # here\ndef f(order: Order): ..."
        ),
        "JSON has no value for an object of a class (Lock)",
    ),
    (
        (
            "import msgspec\nclass Lock: ...\nclass Item(msgspec.Struct):\n    lock: Lock\n"
            "class Order(msgspec.Struct):\n    items: list[Item]\n"
            "@task('shop.total')  # here\ndef f(order: Order): ..."
        ),
        "JSON has no value for an object of a class (Lock)",
    ),
    (
        (
            "from collections.abc import Callable\n"
            "@task('shop.total')  # here\ndef f(p: Callable): ..."
        ),
        "JSON has no value for a callable",
    ),
    (
        (
            "from collections.abc import Callable\nfrom dataclasses import dataclass\n"
            "@dataclass\nclass Order:\n    then: Callable[[int], int]\n"
            "@task('shop.total')  # here\ndef f(order: list[Order]): ..."
        ),
        "JSON has no value for a callable",
    ),
    (
        (
            "from pydantic import BaseModel\nclass Lock: ...\n"
            "class Order(BaseModel, arbitrary_types_allowed=True):\n    lock: Lock\n"
            "@task('shop.total')  # here\ndef f(order: Order): ..."
        ),
        "JSON has no value for an object of a class (Lock)",
    ),
    ("@task('shop.total')  # here\ndef f(kind: type[int]): ...", "no value for a class (int)"),
]
IMPORTS = [
    ("raise ValueError('the database')  # here", "ValueError('the database') when it is imported"),
    ("import sys\nsys.exit(0)  # here", 'below `if __name__ == "__main__":`'),
    ("import asyncio\nraise asyncio.CancelledError  # here", "CancelledError() when it is"),
    ("raise GeneratorExit('over')  # here", "GeneratorExit('over') when it is imported"),
    ("import no_such_module_here  # here", "install it where the agent runs"),
    ("from . import sibling  # here", "name it as package.module"),
    ("@task(  # here", "SyntaxError"),
    ("number = eval('1 +')  # here", "SyntaxError: "),
]


@pytest.mark.parametrize(("source", "says"), [*OPTIONS, *DECORATORS, *DROPPED, *TYPES, *IMPORTS])
def test_a_mistake_is_told_with_file_and_line_and_what_to_do(
    tmp_path: Path, source: str, says: str
) -> None:
    file = tmp_path / f"shop_{abs(hash((tmp_path, source)))}.py"
    file.write_text(HEAD + textwrap.dedent(source) + "\n")
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "# here" in text)
    with pytest.raises(ConfigurationError) as caught:
        load_registry([str(file)])
    told = str(caught.value)
    assert told.startswith(f"handlers '{file}'")
    assert f"{file}:{line}" in told
    assert says in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no.such.module", "there is no module 'no'; give a name that can be imported in"),
        ("missing.py", "there is no file {folder}/missing.py; paths are relative to {folder}"),
        ("empty.py", "there is no handler in {folder}/empty.py; mark a function with @task"),
        ("nul.py", "handlers '{folder}/nul.py' cannot be imported: .*null bytes"),
        (".", "'.' is no name of a module; give a name that can be imported in {folder}"),
        ("..shop", "'..shop' is no name of a module"),
        ("queue.py", "{folder}/queue.py is called like a module of Python's own"),
        ("json", "there is no handler in .*json/__init__.py; mark a function"),
    ],
)
def test_a_module_that_gives_no_handlers_is_told_with_what_to_do(
    tmp_path: Path, name: str, says: str
) -> None:
    (tmp_path / "empty.py").write_text("number = 3\n")
    (tmp_path / "nul.py").write_text(HEAD + "number = 1\0\n")
    (tmp_path / "queue.py").write_text(HEAD + "@task('a.b')\ndef f(payload): ...\n")
    with pytest.raises(ConfigurationError, match=says.format(folder=re.escape(str(tmp_path)))):
        load_registry([name], tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        load_registry([name], tmp_path)
    assert "None" not in str(caught.value)


def test_of_handlers_that_are_installed_the_line_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_INSTALLED", (str(tmp_path),))
    (tmp_path / "installed_shop.py").write_text("number = 1\nnumber / 0\n")
    with pytest.raises(ConfigurationError, match=r"installed_shop\.py:2: it raises ZeroDivision"):
        load_registry(["installed_shop"], tmp_path)


OFFERED = HEAD + "@task('{name}.total')\ndef total(payload): ...\n"
HELPERS = {
    "partial": "again = functools.partial(print, {other}.total)\n",
    "closure": (
        "def make(kept):\n    def helper(payload): return kept(payload)\n    return helper\n"
        "again = make({other}.total)\n"
    ),
}


@pytest.mark.parametrize("helper", HELPERS)
@pytest.mark.parametrize("order", [("first", "second"), ("second", "first"), ("first",)])
def test_a_helper_may_keep_a_handler_of_another_module_in_any_order(
    tmp_path: Path, helper: str, order: tuple[str, ...]
) -> None:
    names = {one: f"{one}_{helper}_{abs(hash((tmp_path, helper)))}" for one in ("first", "second")}
    first, second = names["first"], names["second"]
    keeps = HELPERS[helper].format(other=second)
    text = f"import functools\nimport {second}\n{OFFERED.format(name=first)}{keeps}"
    (tmp_path / f"{first}.py").write_text(text)
    (tmp_path / f"{second}.py").write_text(OFFERED.format(name=second))
    registry = load_registry([names[one] for one in order], tmp_path)
    assert {one.capability for one in registry} == {f"{names[one]}.total" for one in order}


LEFT = [
    "KEPT = {}\nfor n in 'xy':\n    @task(f'shop.{n}')\n    def f(p): ...\n    KEPT[n] = f",
    "KEPT = []\n@KEPT.append\n@task('shop.x')\ndef f(p): ...",
    "def make():\n    @task('shop.x')\n    def f(p): ...\nmake()",
    "def f(p): ...\nf = task('shop.b')(task('shop.b')(f))",
    "def f(p): ...\nclass A:\n    f = staticmethod(task('shop.b')(f))",
    "def f(p): ...\nclass A:\n    kept = [task('shop.b')(lambda p: p)]",
    (
        "class Router:\n    def __init__(self): self.kept = {}\n    def __call__(self, f):\n"
        "        self.kept[f.__name__] = f\n        return f\n"
        "router = Router()\n@router\n@task('shop.b')\ndef f(p): ..."
    ),
]


@pytest.mark.parametrize("source", LEFT)
def test_what_a_module_keeps_elsewhere_or_makes_in_functions_is_its_own_affair(
    tmp_path: Path, source: str
) -> None:
    file = tmp_path / f"shop_{abs(hash((tmp_path, source)))}.py"
    file.write_text(f"{HEAD}{source}\n@task('shop.z')\ndef z(p): ...\n")
    assert load_registry([str(file)]).get("shop.z")


def test_a_module_that_is_imported_anew_is_judged_by_what_it_has_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"shop_{abs(hash(tmp_path))}"
    file = tmp_path / f"{name}.py"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file.write_text(f"{HEAD}@task('shop.before')\ndef f(p): ...\n1 / 0\n")
    with pytest.raises(ConfigurationError):
        load_registry([str(file)])
    for number in range(2):
        file.write_text(f"{HEAD}@task('shop.n{number}')\ndef f(p): ...\n")
        importlib.invalidate_caches()
        if number:
            importlib.reload(sys.modules[name])
        assert [one.capability for one in load_registry([str(file)])] == [f"shop.n{number}"]
