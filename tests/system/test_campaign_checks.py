"""That a campaign would see what is wrong in the end, and that it does what it plans."""

import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maniple.messages import Status
from maniple_cli.dev_cluster.child import Death
from maniple_runtime.events import AgentFailed
from maniple_runtime.records import Batch
from system.brokers import BrokerKind
from system.campaign import checks, nemesis_faults, run
from system.campaign.client_history import Told
from system.campaign.matrix import markdown_of
from system.campaign.memory import BROKER, Memory, grown, held
from system.campaign.nemesis import Fault
from system.campaign.page import page_of
from system.campaign.run import Options, Outcome
from system.campaign.table import FAULTS
from system.campaign.workload import AFFINE, BRIEF, LONGEST, RATE, SHORT, SHORTEST, planned
from system.campaign_case import Case


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path / "journal").good()


def test_a_process_that_dies_by_itself_is_named_and_one_that_was_killed_is_not() -> None:
    deaths = [Death("agent-1", 7, -9, "", 0.5), Death("agent-2", 8, 1, "Traceback", 0.5)]
    (said,) = checks.unexpected(deaths, {7})
    assert said.startswith("agent-2 died by itself with exit status 1: Traceback")


def test_a_process_that_has_grown_is_named() -> None:
    before = {"registry-1": 80.0, "agent-1": 80.0, BROKER: 80.0}
    after = {"registry-1": 98.5, "agent-1": 97.5, BROKER: 139.0}
    assert list(grown(before, after)) == ["registry-1 has grown from 80 to 98 MiB"]
    assert list(grown({BROKER: 80.0}, {BROKER: 141.0})) == ["rabbitmq has grown from 80 to 141 MiB"]


def test_what_the_broker_has_set_aside_does_not_count_as_held() -> None:
    told = {"binary": 3 << 20, "quorum_ets": 9 << 20, "strategy": "rss", "total": {"rss": 1}}
    assert held(told) == 3


async def test_a_process_that_was_started_again_is_compared_with_its_new_life() -> None:
    child = SimpleNamespace(running=True)
    sizes, process = [50.0, 70.0, 90.0], SimpleNamespace(instance="agent-1", pid=1, child=child)
    memory = Memory(a_cluster(process), a_broker())
    memory.resident = lambda _pid: sizes.pop(0)
    await memory.look()
    child.running = False
    await memory.look()
    process.pid, child.running = 2, True
    await memory.look()
    assert memory.grown() == []
    await memory.look()
    assert memory.sizes["agent-1"] == (70.0, 90.0)
    assert memory.grown() == ["agent-1 has grown from 70 to 90 MiB"]


def a_cluster(*processes: SimpleNamespace) -> Any:
    return SimpleNamespace(processes=processes)


def a_broker(*answers: Any) -> Any:
    """A broker that gives these answers, the last one again and again."""
    left = list(answers) or [{"memory": {}}]

    async def control(*_: str) -> str:
        return json.dumps(left.pop(0) if len(left) > 1 else left[0])

    return SimpleNamespace(control=control, children=[SimpleNamespace(pid=1)])


async def test_messages_that_are_left_in_a_queue_are_told_and_those_of_a_stream_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "LOOK_SECONDS", 0.0)
    stream, empty = {"name": "maniple.records", "messages": 9}, {"name": "a", "messages": 0}
    full = {"name": "maniple.submit", "messages": 3}
    said = await checks.left_in_queues(a_broker([stream, empty, full]), "dev")
    assert said == ["3 messages are left in maniple.submit"]
    assert await checks.left_in_queues(a_broker([full], [stream, empty]), "dev") == []


def test_a_process_with_a_check_that_does_not_pass_or_with_none_is_missing_in_consul() -> None:
    found = [
        {"ServiceID": "agent-1", "Status": "passing"},
        {"ServiceID": "agent-1", "Status": "critical"},
        {"ServiceID": "agent-2", "Status": "passing"},
        {"ServiceID": "agent-2", "Status": "passing"},
    ]
    names = {"agent-1", "agent-2", "agent-3"}
    assert checks.not_passing(found, names) == ["agent-1", "agent-3"]


def test_totals_that_differ_are_told(case: Case) -> None:
    assert list(checks.accounts(case.evidence, 2)) == []
    (said,) = checks.accounts(case.evidence, 3)
    assert "3 tasks, 2 confirmed" in said


async def test_records_that_cannot_be_read_are_told(case: Case) -> None:
    await case.history.hear(Batch(entries=(), next_offset=3, unreadable=2))
    assert list(checks.accounts(case.evidence, 2)) == ["2 records cannot be read"]


def test_another_result_that_says_something_else_is_told_and_the_same_once_more_is_not(
    case: Case,
) -> None:
    case.client_history.tell("t1", Told("succeeded", 1.0))
    assert list(checks.accounts(case.evidence, 2)) == []
    case.client_history.tell("t1", Told("succeeded", 2.0))
    (said,) = checks.accounts(case.evidence, 2)
    assert said.startswith("the submitter of t1 was told Told(status='succeeded', output=1.0) fir")
    assert case.client_history.again == 2


def test_a_terminal_state_that_changes_is_told(case: Case) -> None:
    case.ended(3, Status.FAILED)
    assert list(checks.accounts(case.evidence, 2)) == []
    case.ended(-1, Status.FAILED)
    (said,) = checks.accounts(case.evidence, 2)
    assert said == "the terminal state of t1 changed: another result became the first"


def test_a_seed_decides_everything() -> None:
    assert planned(7, 3, 500) == planned(7, 3, 500)
    assert planned(7, 3, 500) != planned(8, 3, 500)
    lengths = [task.seconds for task in planned(7, 3, 500)]
    assert SHORTEST <= min(lengths) < max(lengths) <= LONGEST


def test_short_tasks_come_together_and_affine_ones_have_keys() -> None:
    tasks = planned(7, 3, 500)
    short = [task for task in tasks if task.capability == SHORT]
    assert len(short) > 3 * len({task.due for task in short})
    assert {task.capability for task in tasks if task.affinity} == {AFFINE}
    assert [task.due for task in tasks] == sorted(task.due for task in tasks)


@pytest.mark.parametrize("short", [False, True])
def test_there_is_work_before_during_and_after_every_fault_but_those_of_an_idle_fleet(
    short: bool,
) -> None:
    options = Options(short=short, seed=5)
    earliest, latest = options.form.lead
    for row, (fault, count) in enumerate(zip(options.faults, options.counts, strict=True)):
        due = [task.due for task in planned(options.seed, row, count, busy=fault.busy)]
        assert sum(at < earliest for at in due) > RATE, fault.name
        lasts = 0.0 if fault.idle else fault.lasts
        assert sum(at > latest + lasts for at in due) > RATE, fault.name
        assert fault.idle == (max(due) < earliest + fault.lasts), fault.name


def test_the_full_form_has_its_tasks_the_short_one_its_minutes_and_a_part_its_share() -> None:
    full, short, part = Options(), Options(short=True), Options(only="policy")
    assert full.total >= 20_000
    assert 120 < sum(BRIEF.fallow + fault.lasts for fault in short.faults) < 160
    assert part.total == sum(part.counts) < full.total / 10


def test_every_fault_that_the_nemesis_knows_is_in_the_table() -> None:
    known = {
        name
        for name, one in inspect.getmembers(nemesis_faults, inspect.isfunction)
        if one.__module__ == nemesis_faults.__name__ and not name.startswith("_")
    }
    assert {fault.inject.__qualname__.partition(".")[0] for fault in FAULTS} == known


def test_a_fault_takes_a_function_and_a_line_of_the_table(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    invented = Fault("something invented", nemesis_faults.nothing, lasts=4.0, short=True)
    monkeypatch.setattr(run, "FAULTS", (*FAULTS, invented))
    options = Options(only="invented", short=True)
    assert (options.faults, options.counts) == ([invented], [BRIEF.tasks(4.0)])
    case.alive().fault = invented
    assert markdown_of([case.row()]).splitlines()[-1].startswith("| something invented | 2 |")


def test_a_page_keeps_what_was_measured_on_another_broker(case: Case) -> None:
    page = ""
    for broker, seconds in (("RabbitMQ 4", 60.0), ("RabbitMQ 3", 120.0), ("RabbitMQ 4", 180.0)):
        outcome = Outcome([case.row()], [], seconds, {}, broker, 0)
        page = page_of(Options(), outcome, agents=5, before=page)
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    assert titles == ["## RabbitMQ 3 (native)", "## RabbitMQ 4 (native)"]
    assert re.findall(r"in (\d) minutes", page) == ["2", "3"]
    assert page.count('make campaign ARGS="--seed 1"') == 2


def test_a_section_names_the_command_that_wrote_it(case: Case) -> None:
    options = Options(seed=9, broker=BrokerKind.CONTAINER)
    page = page_of(options, Outcome([case.row()], [], 60.0, {}, "R", 0), agents=5, before="")
    assert 'make campaign ARGS="--broker container --seed 9"' in page


def test_an_event_is_heard_once_however_many_registries_say_it(case: Case) -> None:
    case.failed("a1", 3.1)
    assert len(list(case.history.said(AgentFailed, 0.0))) == 1
