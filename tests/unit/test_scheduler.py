"""What an agent runs, and what it publishes of it."""

from datetime import timedelta

from maniple.errors import ErrorCode
from maniple.execution import failed
from maniple.messages import Status
from maniple_agent.task_watch import TaskWatch
from work_with_fakes import NOW, Agent, Delivery, envelope


async def test_a_bundle_is_acknowledged_when_all_its_results_are_confirmed() -> None:
    agent, delivery = Agent(), Delivery(envelope("1"), envelope("2"))
    await agent.take(delivery)
    await agent.finish("1")
    assert ([result.id for result in agent.results()], delivery.acked) == (["1"], 0)
    await agent.finish("2", failed(ErrorCode.HANDLER_ERROR, "no"))
    assert [result.status for result in agent.results()] == [Status.SUCCEEDED, Status.FAILED]
    assert delivery.acked == 1


async def test_what_expires_while_it_waits_is_not_started() -> None:
    agent = Agent(capacity=1)
    soon = NOW + timedelta(seconds=1)
    delivery = Delivery(envelope("2", deadline=soon))
    await agent.take(Delivery(envelope("1")))
    await agent.take(delivery)
    agent.now = soon
    await agent.finish("1")
    assert [result.status for result in agent.results()] == [Status.SUCCEEDED, Status.EXPIRED]
    assert (agent.executor.jobs, delivery.acked) == ([], 1)


async def test_a_failed_attempt_waits_in_the_broker_for_the_next() -> None:
    agent, delivery = Agent(), Delivery(envelope("1", max_attempts=3))
    await agent.take(delivery)
    await agent.finish("1", failed(ErrorCode.HANDLER_ERROR, "no"))
    ((_, (again,)),) = agent.moved("maniple.delay")
    assert (again.attempt, again.id, delivery.acked) == (2, "1", 1)
    assert agent.results() == []


async def test_without_room_for_another_attempt_the_last_one_counts() -> None:
    agent, delivery = Agent(), Delivery(envelope("1", max_attempts=3))
    agent.publisher.full = {"0.1", "0.25", "0.5", "1"}
    await agent.take(delivery)
    await agent.finish("1", failed(ErrorCode.HANDLER_ERROR, "no"))
    (result,) = agent.results()
    assert (result.status, result.attempt, delivery.acked) == (Status.FAILED, 1, 1)


async def test_an_attempt_that_runs_for_a_second_is_recorded_once() -> None:
    agent = Agent()
    watch = TaskWatch(agent.work, agent.agent_publisher, "agent-1", period=0.25)
    await agent.take(Delivery(envelope("1"), envelope("2")))
    for seconds in (0.5, 1.5, 2.5):
        watch.announce_running(NOW + timedelta(seconds=seconds))
    await agent.settle()
    (told,) = agent.publisher.to("maniple.events")
    assert told.routing_key == "task.running"
    assert (told.body.count(b'"id"'), told.body.count(b'"1"')) == (2, 1)


async def test_a_task_keeps_its_timeout_and_never_passes_its_deadline() -> None:
    agent = Agent()
    soon = NOW + timedelta(seconds=3)
    await agent.take(Delivery(envelope("1", timeout=9.0), envelope("2", deadline=soon)))
    assert [job.timeout for job in agent.executor.jobs] == [9.0, 3.0]
