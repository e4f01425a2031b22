from types import ModuleType

import pytest

from maniple.errors import ConfigurationError
from maniple.task_registry import TaskRegistry
from maniple.tasks import task


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
