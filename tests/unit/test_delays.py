"""Tasks that wait in the broker, each of which hears of its own end."""

from maniple.errors import ErrorCode, InvalidMessage, ManipleError
from maniple.service.refusals import RefusedLog
from maniple.service.telemetry import Metrics
from maniple_dispatcher.delays import Delays
from maniple_dispatcher.domain.routing import Wait
from work_with_fakes import FakePublisher, envelope


def broken(_error: ManipleError | None) -> None:
    raise RuntimeError("a bug")


async def test_an_end_that_raises_keeps_no_other_task_of_the_bundle_waiting() -> None:
    delays, told = Delays(FakePublisher(), Metrics()), list[ManipleError | None]()
    for done in (broken, told.append):
        delays.add(Wait(1.0, envelope("a")), done, insist=False)
    await delays.drain()
    assert told == [None]


async def test_an_end_that_raises_does_not_end_what_keeps_refused_input() -> None:
    log = RefusedLog(FakePublisher(), Metrics())
    log.keep(b"x", InvalidMessage(ErrorCode.UNDECODABLE, "bad"), {}, broken)
    (task,) = log._tasks
    await log.drain()
    assert task.exception() is None
