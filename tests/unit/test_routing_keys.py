"""`maniple_runtime.control.routing_keys`: whom a command reaches."""

from maniple_runtime.control.routing_keys import control_keys


def test_an_agent_hears_what_is_for_it_for_its_capabilities_and_for_all() -> None:
    assert control_keys("a1", ["x.y", "b"]) == ("all", "agent.a1", "capability.b", "capability.x.y")
