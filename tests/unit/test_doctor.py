"""What `maniple doctor` makes of what it finds, without servers but for one of the wrong time."""

import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from maniple.amqp.probe import BrokerView
from maniple.errors import BrokerUnavailable
from maniple.topology import QUEUES, lane_queues
from maniple_cli.checks import broker, examine, management, policies, processes, work
from maniple_cli.checks.findings import CheckVerdict, Finding, Places
from maniple_cli.checks.pages import PageUnread, least_ahead, read
from maniple_runtime.consul.catalog import Instance

HOUR = 3600.0


def test_an_old_broker_and_missing_queues_are_told_with_advice() -> None:
    view = BrokerView("RabbitMQ", "3.8.2", (), ("maniple.submit",))
    found = broker.version(Places("amqp://h/dev"), view)
    assert (found.verdict, found.advice) == (
        CheckVerdict.FAILED,
        "upgrade RabbitMQ to 3.10 or later",
    )
    assert broker.declared(view).found == "missing: maniple.submit"


def test_versions_are_compared_by_their_numbers() -> None:
    assert broker.version_of("3.9.13") < (3, 10) <= broker.version_of("3.10.8-1+deb12")
    assert broker.version_of("4.0.0-rc.1") > (3, 10)


async def test_a_broker_that_is_not_there_cannot_be_examined() -> None:
    with pytest.raises(BrokerUnavailable):
        await anext(examine(Places("amqp://127.0.0.1:1/dev")))


def test_a_shared_queue_that_nobody_consumes_is_told_with_who_would() -> None:
    consumers = dict.fromkeys(broker.CONSUMED, 1) | {"maniple.submit": 0, "maniple.retry": 0}
    found = broker.consumed(BrokerView("RabbitMQ", "4.0.5", (), (), consumers=consumers))
    assert found.verdict is CheckVerdict.FAILED
    assert found.found == "maniple.submit has no consumer; maniple.retry has no consumer"
    assert found.advice == "start a dispatcher"


def test_queue_arguments_that_differ_are_named() -> None:
    lane, _ = lane_queues("text.stats")
    present = {queue.name: dict(queue.all_arguments) for queue in (*QUEUES, lane)}
    assert management.wrong_arguments(present | {"theirs": {}}) == []
    present["maniple.submit"]["x-max-length"] = 5
    present[lane.name]["x-queue-type"] = "classic"
    del present["maniple.records"]
    assert management.wrong_arguments(present) == [
        "maniple.submit: x-max-length is 5, not 1000000",
        f"{lane.name}: x-queue-type is 'classic', not 'quorum'",
    ]


STREAMS = sorted(queue.name for queue in QUEUES if queue.kind == "stream")


def replicated(**replicas: int) -> list[dict[str, Any]]:
    """Return all queues as the API tells them: streams with three replicas, or so many."""
    counts = {name: replicas.get(name.replace(".", "_"), 3) for name in STREAMS}
    told: list[dict[str, Any]] = [{"name": queue.name} for queue in QUEUES]
    for queue in told:
        if queue["name"] in counts:
            queue["members"] = [f"rabbit@{n}" for n in range(counts[queue["name"]])]
        else:
            queue["members"] = ["rabbit@0"]  # of quorum queues, which are flushed, nothing is said
    return told


def test_a_stream_that_one_machine_could_lose_is_a_warning_outside_dev() -> None:
    assert management.streams(replicated(), "prod").verdict is CheckVerdict.OK
    few = replicated(maniple_records=2, maniple_dead_log=1)
    found = management.streams(few, "prod")
    assert found.verdict is CheckVerdict.WARNING
    assert found.found == (
        "maniple.dead.log has 1 of 3 replicas; maniple.records has 2 of 3 replicas"
    )
    assert "add_replica" in found.advice
    assert management.streams(few, "dev").verdict is CheckVerdict.OK


def test_replicas_that_the_broker_does_not_tell_are_not_taken_for_enough() -> None:
    told = replicated()
    for queue in told:
        if queue["name"] == "maniple.records":
            del queue["members"]
    found = management.streams(told, "prod")
    assert (found.verdict, found.found) == (
        CheckVerdict.SKIPPED,
        "no replicas are told of maniple.records",
    )
    assert management.streams([], "prod").verdict is CheckVerdict.SKIPPED
    told = replicated(maniple_dead_log=1)
    told[:] = [queue for queue in told if queue["name"] != "maniple.records"]
    assert management.streams(told, "prod").verdict is CheckVerdict.WARNING


def test_what_the_api_told_is_judged_for_the_environment_that_was_asked_about() -> None:
    told = management.ManagementPages("prod", [node()], replicated(maniple_records=1), None)
    assert {one.check: one.verdict for one in management.judge(told)}[
        "streams"
    ] is CheckVerdict.WARNING


def node(**more: Any) -> dict[str, Any]:
    return {"name": "rabbit@a", "enabled_plugins": list(management.WANTED_PLUGINS), **more}


def test_a_plugin_that_is_missing_is_named_with_how_to_enable_it() -> None:
    assert management.plugins([node()]).verdict is CheckVerdict.OK
    found = management.plugins([node(enabled_plugins=["rabbitmq_management"])])
    assert found.verdict is CheckVerdict.WARNING
    assert found.advice == "run there: rabbitmq-plugins enable rabbitmq_prometheus"


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ({"mem_alarm": True}, "memory"),
        ({"disk_free_alarm": True}, "disk"),
        ({"partitions": ["rabbit@b"]}, "cut off from rabbit@b"),
        ({"running": False}, "not running"),
    ],
)
def test_whatever_holds_up_publishers_is_a_failure(what: dict[str, Any], word: str) -> None:
    found = management.alarms([node(), node(**what)])
    assert found.verdict is CheckVerdict.FAILED
    assert word in found.found
    assert found.advice


def test_tasks_in_a_lane_without_consumer_are_a_failure_and_an_empty_one_is_not() -> None:
    found = management.unserved({"a": 3, "b": 0, "c": 2}, {"a": 0, "b": 0, "c": 1})
    assert (found.verdict, found.found) == (
        CheckVerdict.FAILED,
        "3 messages wait in a, which nobody consumes",
    )
    assert management.unserved({"b": 0}, {"b": 0}).verdict is CheckVerdict.OK


def instance(status: str) -> Instance:
    return Instance("d1", "maniple-dispatcher", "n", "h", 1, status, {})


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        (("passing",), CheckVerdict.OK),
        (("passing", "critical"), CheckVerdict.WARNING),
        (("critical",), CheckVerdict.FAILED),
        ((), CheckVerdict.FAILED),
    ],
)
def test_a_service_needs_one_healthy_process(
    statuses: tuple[str, ...], verdict: CheckVerdict
) -> None:
    assert processes.service("dispatcher", list(map(instance, statuses))).verdict is verdict


def test_a_component_that_is_not_ok_is_told_with_its_reason() -> None:
    page = {"components": {"loop": {"ok": False, "detail": "1.20 s late"}, "start": {"ok": True}}}
    found = processes.components({"a1": page, "a2": {"components": {}}}, 3)
    assert found.verdict is CheckVerdict.WARNING
    assert found.found == "2 of 3 processes asked; a1: loop is not ok (1.20 s late)"
    assert processes.components({}, 3).verdict is CheckVerdict.SKIPPED


@pytest.mark.parametrize(
    ("ahead", "verdict"),
    [
        ({"a": 0.4}, CheckVerdict.OK),
        ({"a": -2.0}, CheckVerdict.WARNING),
        ({"a": HOUR}, CheckVerdict.FAILED),
    ],
)
def test_clocks_are_judged_by_what_they_differ(
    ahead: dict[str, float], verdict: CheckVerdict
) -> None:
    assert processes.clocks(ahead).verdict is verdict


def test_a_date_without_fractions_proves_no_difference_within_its_second() -> None:
    date = formatdate(1000, usegmt=True)  # anything from 1000 to 1001
    assert least_ahead(date, 1000.9, 1000.95) == 0
    assert least_ahead(date, 990, 991) == 9
    assert least_ahead(date, 1011, 1012) == -10
    assert least_ahead(None, 0, 0) is None
    assert least_ahead("yesterday", 0, 0) is None


class Late(BaseHTTPRequestHandler):
    """A page whose server lives an hour ago."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}" if self.path == "/json" else b"<html>")

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) - HOUR)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def late_server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Late) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_server_of_the_wrong_time_is_found_out(late_server: str) -> None:
    page = await read(f"{late_server}/json")
    assert page.ahead is not None
    assert -HOUR - 1 < page.ahead < -HOUR + 10
    with pytest.raises(PageUnread, match="answered 200: <html>"):
        await read(late_server)


def status(**more: Any) -> dict[str, Any]:
    return {"invalid": {}, "consul": True, "policies": [], "processes": [], **more}


def process(state: str) -> dict[str, Any]:
    return {"instance": "a1", "state": state, "heard": 95.0, "behind": {"retry/default": 1}}


@pytest.mark.parametrize(
    ("told", "verdict", "word"),
    [
        (status(), CheckVerdict.OK, "none"),
        (status(processes=[process("unknown")]), CheckVerdict.OK, "none"),
        (status(invalid={"retry/x": "no such field"}), CheckVerdict.FAILED, "retry/x"),
        (status(consul=False), CheckVerdict.FAILED, "Consul"),
        (status(processes=[process("lagging")]), CheckVerdict.WARNING, "a1 has not retry/default"),
        (
            status(processes=[process("stale")]),
            CheckVerdict.WARNING,
            "a1 has said nothing for 95 s",
        ),
    ],
)
def test_policies_are_judged(told: dict[str, Any], verdict: CheckVerdict, word: str) -> None:
    found = policies.policies(told)
    assert (found.verdict, word in found.found) == (verdict, True)


@pytest.mark.parametrize(
    ("states", "hearing", "verdict"),
    [
        (("active", "left"), True, CheckVerdict.OK),
        (("active", "failed"), True, CheckVerdict.WARNING),
        (("unreachable",), True, CheckVerdict.FAILED),
        (("active",), False, CheckVerdict.FAILED),
    ],
)
def test_membership_is_judged(
    states: tuple[str, ...], *, hearing: bool, verdict: CheckVerdict
) -> None:
    agents = [{"agent": f"a{n}", "state": state} for n, state in enumerate(states)]
    assert work.members({"agents": agents, "hearing": hearing}).verdict is verdict


def test_whatever_is_not_well_comes_with_advice() -> None:
    found: list[Finding] = [
        processes.service("agent", []),
        processes.clocks({"a": HOUR}),
        processes.components({}, 1),
        policies.policies(status(consul=False)),
        work.members({"agents": []}),
        management.plugins([node(enabled_plugins=[])]),
    ]
    assert all(finding.advice for finding in found)
