from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maniple.errors import ConfigurationError
from maniple.tasks import MARK, Executor, TaskDefinition, TaskRegistry, load_registry, task


def definition_of(function: Any) -> TaskDefinition:
    definition = getattr(function, MARK)
    assert isinstance(definition, TaskDefinition)
    return definition


async def coroutine(payload: Any) -> Any:
    return payload


def plain(payload: int, context: object) -> Any:
    return payload, context


def test_the_kind_of_function_chooses_where_it_runs() -> None:
    assert definition_of(task("a.b")(coroutine)).executor is Executor.ASYNC
    assert definition_of(task("a.b")(plain)).executor is Executor.THREAD
    assert definition_of(task("a.b", executor="process")(plain)).executor is Executor.PROCESS


def test_a_marked_function_stays_what_it_was() -> None:
    assert task("a.b")(plain) is plain
    assert plain(1, "context") == (1, "context")


def test_the_signature_says_whether_a_context_is_wanted_and_what_the_payload_is() -> None:
    definition = definition_of(task("a.b", timeout=3, max_attempts=2)(plain))
    assert definition.takes_context
    assert definition.payload_type is int
    assert (definition.timeout, definition.max_attempts) == (3, 2)
    assert not definition_of(task("a.b")(coroutine)).takes_context


@pytest.mark.parametrize(
    "name", ["", "A.b", "a..b", ".a", "a.", "a b", "a.b\n", "ä", "a@b", "a.suspect"]
)
def test_a_wrong_capability_is_refused_where_it_is_written(name: str) -> None:
    with pytest.raises(ConfigurationError, match="capability"):
        task(name)


@pytest.mark.parametrize(
    ("function", "options", "says"),
    [
        (coroutine, {"executor": "thread"}, "plain function"),
        (plain, {"executor": "async"}, "async def"),
        (plain, {"timeout": 0}, "timeout"),
        (plain, {"max_attempts": -1}, "max_attempts"),
        (lambda: None, {}, "payload"),
        (lambda _a, _b, _c: None, {}, "payload"),
    ],
)
def test_options_that_clash_are_refused_by_name(
    function: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        task("a.b", **options)(function)


def test_a_registry_refuses_two_handlers_of_one_capability() -> None:
    @task("a.b")
    def one(payload: object) -> object:
        return payload

    @task("a.b")
    def other(payload: object) -> object:
        return payload

    registry = TaskRegistry([one, one])
    assert len(registry) == 1
    with pytest.raises(ConfigurationError, match=r"a\.b"):
        registry.add(other)
    with pytest.raises(ConfigurationError, match="not marked"):
        registry.add(print)


def test_a_module_is_searched_for_marked_functions() -> None:
    module = ModuleType("handlers")
    vars(module).update(one=task("a.one")(lambda payload: payload), other=print, number=3)
    registry = TaskRegistry()
    registry.collect(module)
    assert [definition.capability for definition in registry] == ["a.one"]
    assert registry.get("a.two") is None


def test_handlers_are_loaded_from_a_file_or_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "handlers_for_this_test.py"
    file.write_text("from maniple import task\n@task('a.file')\ndef f(payload): return payload\n")
    assert load_registry([str(file)]).get("a.file") is not None
    with pytest.raises(ConfigurationError, match=r"no\.such\.module"):
        load_registry(["no.such.module"])
