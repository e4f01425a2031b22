"""What a client sends: tasks of one capability under its name, others under `batch`."""

from maniple.client.carrier import AmqpCarrier
from maniple.client.handle import OutstandingHandles, TaskHandle, Ticket
from maniple.client.submission import encode_task
from maniple.codec import decode_submission
from maniple.messages import Task
from maniple.topology import BATCH_KEY


def ticket(capability: str, *, tenant: str = "default") -> Ticket:
    body = encode_task(Task(capability=capability, id="one", tenant=tenant))
    return TaskHandle("one", "default", capability, body)


def sent(*bundle: Ticket) -> tuple[str, list[str | None], int]:
    """Return the routing key, the capability that each task says, and the length."""
    carrier = AmqpCarrier("amqp://nowhere", OutstandingHandles(), None)
    message = carrier._message(list(bundle), lambda: "")
    tasks = decode_submission(message.body)
    said = [task.capability for task in tasks if isinstance(task, Task)]
    assert [task.id for task in tasks if isinstance(task, Task)] == ["one"] * len(bundle)
    return message.routing_key, said, len(message.body)


async def test_a_capability_that_the_routing_key_says_is_not_repeated_in_each_task() -> None:
    assert sent(ticket("a.task"))[:2] == ("a.task", [None])
    key, said, size = sent(ticket("a.task"), ticket("a.task", tenant="b"))
    assert (key, said) == ("a.task", [None, None])
    assert size == len('[{"id":"one"},{"id":"one","tenant":"b"}]')


async def test_tasks_of_several_capabilities_say_theirs() -> None:
    assert sent(ticket("a"), ticket("b"))[:2] == (BATCH_KEY, ["a", "b"])


async def test_a_capability_with_the_name_of_the_key_of_all_says_so() -> None:
    assert sent(ticket(BATCH_KEY), ticket(BATCH_KEY))[:2] == (BATCH_KEY, [BATCH_KEY] * 2)
