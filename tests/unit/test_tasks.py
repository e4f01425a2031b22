from pathlib import Path
from typing import Annotated, Any, Protocol

import pytest

from maniple.errors import ConfigurationError
from maniple.loading import load_registry
from maniple.messages import RetryPlan
from maniple.task_options import _CHECKS
from maniple.tasks import Executor, TaskContext, TaskOptions, definition_of, task


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


def test_a_task_is_neither_exclusive_nor_bound_to_an_agent_unless_it_says_so() -> None:
    usual = definition_of(task("a.b")(coroutine))
    assert (usual.exclusive, usual.affinity) == (False, False)
    special = definition_of(task("a.b", exclusive=True, affinity=True)(coroutine))
    assert (special.exclusive, special.affinity) == (True, True)


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
        (plain, {"exclusive": "yes"}, "exclusive"),
        (plain, {"affinity": 1}, "affinity"),
        (plain, {"sticky": True}, "no option 'sticky'"),
        (plain, {"timeout": "abc"}, "timeout must be a number"),
        (plain, {"timeout": "3"}, "timeout must be a number"),
        (plain, {"timeout": float("nan")}, "timeout"),
        (plain, {"timeout": True}, "timeout"),
        (plain, {"max_attempts": 2.5}, "max_attempts must be a whole number"),
        (plain, {"memory": "1"}, "memory"),
        (plain, {"on_lost": "failed"}, "on_lost must be 'retry' or 'fail', not 'failed'"),
        (plain, {"executor": "processes"}, "executor must be 'async' or 'thread' or 'process'"),
        (plain, {"retry": {"base": 1}}, "retry must be a RetryPlan"),
        (plain, {"retry": RetryPlan(base="1")}, "retry.base"),  # type: ignore[arg-type]  # a typo
        (plain, {"retry": RetryPlan(cap=-1)}, "retry.cap"),
        (plain, {"retry": RetryPlan(codes=("typo",))}, "retry.codes"),  # type: ignore[arg-type]
        (plain, {"exclusive": True}, "a thread cannot be stopped"),
        (lambda: None, {}, "payload"),
        (lambda _a, _b, _c: None, {}, "payload"),
    ],
)
def test_options_that_clash_are_refused_by_name(
    function: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        task("a.b", **options)(function)


def test_every_option_is_checked_and_none_is_one_that_is_not_given() -> None:
    assert _CHECKS.keys() == TaskOptions.__annotations__.keys()
    options: Any = dict.fromkeys(TaskOptions.__annotations__)
    assert definition_of(task("a.b", **options)(plain)) == definition_of(task("a.b")(plain))


@pytest.mark.parametrize("executor", ["async", "process"])
def test_what_can_be_stopped_may_be_exclusive(executor: Any) -> None:
    function = coroutine if executor == "async" else plain
    assert definition_of(task("a.b", executor=executor, exclusive=True)(function)).exclusive


def test_handlers_are_loaded_from_a_file_or_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "handlers_for_this_test.py"
    file.write_text("from maniple import task\n@task('a.file')\ndef f(payload): return payload\n")
    assert load_registry([str(file)]).get("a.file") is not None
    with pytest.raises(ConfigurationError, match=r"no\.such\.module"):
        load_registry(["no.such.module"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("@task('a.b', timeout='abc')", "timeout must be a number above 0, not 'abc'"),
        ("@task('a.b', on_lost='failed')", "on_lost"),
        ("@task('a.b', exclusive=True)", "a thread cannot be stopped"),
        ("raise ValueError('the database')", r"ValueError\('the database'\)"),
        ("@task(", "SyntaxError"),
    ],
)
def test_handlers_that_cannot_be_loaded_are_named(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / f"wrong_{abs(hash(line))}.py"
    file.write_text(f"from maniple import task\n{line}\ndef f(payload): return payload\n")
    with pytest.raises(ConfigurationError, match=f"{file.stem}.*{says}"):
        load_registry([str(file)])


class Progresses(Protocol):
    def progress(self, value: Any) -> None: ...


@pytest.mark.parametrize(
    "annotation",
    [
        Any,
        object,
        Progresses,
        Annotated[TaskContext, "a note"],
        TaskContext | None,
        str | TaskContext,
    ],
)
def test_what_a_context_may_be_annotated_with(annotation: Any) -> None:
    def handler(payload: Any, context: Any) -> None: ...

    handler.__annotations__["context"] = annotation
    assert definition_of(task("a.b")(handler)).takes_context
