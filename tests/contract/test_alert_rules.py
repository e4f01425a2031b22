"""The rules of infra/prometheus as they are: when they fire, what they say, what they ask for."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from maniple import topology
from maniple_runtime import metric_names
from needs import PROMTOOL, need
from paths import ROOT
from prometheus_server import SOURCE, program
from scraping import sample_name

RULES = SOURCE / "rules"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
RUNBOOK = ROOT / "docs" / "runbook.md"
ASKED = re.compile(r"\bmaniple_\w+")
OTHERS_TOO = re.compile(r"\b(up|process_\w+|rabbitmq_(?!detailed)\w+)\b(\{[^}]*\})?")
SUFFIX = re.compile(r"_(bucket|sum|count)$")
# Labels that grow with agents or tasks are of no alert about many of them.
BOUNDED = {"environment", "service", "instance", "component", "queue", "exchange", "reason"}
BOUNDED |= {"capability", "lane", "state"}
HERE = {"environment": "dev"}


@dataclass(frozen=True)
class Case:
    """Series with a value for each minute; when an alert is silent still, and when it fires.

    Values are in promtool's notation: `0+1x30` rises by one, thirty times. What is recorded may
    reach an alert one evaluation (15 s) later.
    """

    series: dict[str, str]
    labels: dict[str, str]
    silent: str
    fires: str


def agent(metric: str, **more: str) -> str:
    """A series of an agent."""
    labels = {"job": "maniple", "service": "agent", "instance": "agent-1", **HERE, **more}
    return f"{metric}{{{', '.join(f'{name}={value!r}' for name, value in labels.items())}}}"


AN_AGENT = {"job": "maniple", "service": "agent", "instance": "agent-1", **HERE}
LANE = {"queue": "maniple.lane.text.stats", **HERE}
BROKER = {"job": "rabbitmq", "instance": "rabbitmq:15692"}
OF_LANE = "{queue='maniple.lane.text.stats', environment='dev'}"
OF_BROKER = "{job='rabbitmq', instance='rabbitmq:15692'}"
OF_REGISTRY = "{service='registry', instance='registry-1', environment='dev'}"

CASES = {
    "ManipleProcessDown": Case({agent("up"): "1 0x9"}, AN_AGENT, "1m30s", "2m"),
    "ManipleServiceMissing": Case(
        {agent("up"): "1 1 0x9"}, {"service": "agent", **HERE}, "2m", "3m"
    ),
    "ManipleNotReady": Case({agent("maniple_ready"): "1 0x9"}, AN_AGENT, "2m30s", "3m"),
    "ManipleDegraded": Case(
        {agent("maniple_component_ok", component="consul"): "1 0x9"},
        {**AN_AGENT, "component": "consul"},
        "5m30s",
        "6m",
    ),
    "ManipleConnectionsLost": Case(
        {agent("maniple_reconnects_total", link="publish"): "0 0 0+1x20"},
        {"service": "agent", "instance": "agent-1", **HERE},
        "6m",
        "9m",
    ),
    "ManipleSpansDropped": Case(
        {agent("maniple_spans_dropped_total", reason="failed"): "0+10x20"},
        {"service": "agent", **HERE},
        "5m30s",
        "6m30s",
    ),
    "ManipleAgentsFailed": Case(
        {f"maniple_agents{OF_REGISTRY[:-1]}, state='failed'}}": "0 1x9"}, HERE, "30s", "1m"
    ),
    "ManipleAgentsUnreachable": Case(
        {f"maniple_agents{OF_REGISTRY[:-1]}, state='unreachable'}}": "0 1x9"}, HERE, "1m30s", "2m"
    ),
    "ManipleLaneStuck": Case(
        {f"maniple_queues_suspected_total{OF_REGISTRY}": "0 0 1x9"}, HERE, "1m", "2m"
    ),
    "ManipleRegistryWithoutLeader": Case(
        {f"maniple_leads{OF_REGISTRY}": "1 0x9"}, HERE, "1m", "2m"
    ),
    "ManipleNoConsumers": Case(
        {
            f"rabbitmq_detailed_queue_messages_ready{OF_LANE}": "5x9",
            f"rabbitmq_detailed_queue_consumers{OF_LANE}": "1 0x9",
        },
        LANE,
        "1m30s",
        "2m",
    ),
    "ManipleNoAgent": Case(
        {"maniple_tasks_delayed_total{environment='dev', reason='no_agent'}": "0 0 0+1x20"},
        HERE,
        "7m",
        "8m",
    ),
    "ManipleSubmissionsWait": Case(
        {
            "rabbitmq_detailed_queue_messages_ready{queue='maniple.submit', environment='dev'}": (
                "0 0 1000x20"
            ),
            "maniple_submissions_read_total{environment='dev'}": "0+600x20",  # ten a second
        },
        HERE,
        "3m30s",
        "4m30s",
    ),
    "ManipleQueueAge": Case(
        {
            "maniple_queue_seconds_bucket{capability='a', environment='dev', le='60'}": "0x20",
            "maniple_queue_seconds_bucket{capability='a', environment='dev', le='300'}": "0+9x20",
            "maniple_queue_seconds_bucket{capability='a', environment='dev', le='+Inf'}": "0+9x20",
        },
        {"capability": "a", **HERE},
        "5m",
        "6m30s",
    ),
    "ManipleQueueNearLimit": Case(
        {f"rabbitmq_detailed_queue_messages{OF_LANE}": "799999 800001x9"}, LANE, "1m30s", "2m"
    ),
    "ManipleRecordStreamNearLimit": Case(
        {
            "rabbitmq_detailed_queue_messages{queue='maniple.records', environment='dev'}": (
                "39000000 41000000x30"
            ),
            "maniple_bytes_sent_total{exchange='maniple.results', environment='dev'}": "700x30",
            "maniple_bundles_sent_total{exchange='maniple.results', environment='dev'}": "1x30",
        },
        HERE,
        "15m30s",
        "16m30s",
    ),
    "ManipleDeadLetters": Case(
        {"maniple_dead_letters_total{reason='expired', environment='dev'}": "0 0 1x9"},
        {"reason": "expired", **HERE},
        "1m",
        "2m",
    ),
    "ManiplePublishesRefused": Case(
        {"maniple_publishes_refused_total{exchange='maniple.lanes', environment='dev'}": "0 0 1x9"},
        {"exchange": "maniple.lanes", **HERE},
        "1m",
        "2m",
    ),
    "ManipleTasksFailing": Case(
        {
            "maniple_results_total{capability='a', status='failed', environment='dev'}": "0+30x20",
            "maniple_results_total{capability='a', status='succeeded', environment='dev'}": (
                "0+90x20"
            ),
        },
        {"capability": "a", **HERE},
        "5m",
        "6m30s",
    ),
    "ManipleRepliesDropped": Case(
        {
            "maniple_replies_dropped_total{environment='dev'}": "0+10x20",
            "maniple_results_total{environment='dev'}": "0+100x20",
        },
        HERE,
        "5m30s",
        "6m30s",
    ),
    "ManipleBreakerOpen": Case(
        {"maniple_breaker_open{lane='a@canary', environment='dev'}": "0 1x9"},
        {"lane": "a@canary", **HERE},
        "1m30s",
        "2m",
    ),
    "ManiplePolicyLag": Case(
        {"maniple_policy_processes{state='lagging', environment='dev'}": "0 1x9"},
        {"state": "lagging", **HERE},
        "2m30s",
        "3m",
    ),
    "ManiplePoliciesInvalid": Case(
        {"maniple_policies_invalid{service='policy', environment='dev'}": "0 1x9"},
        HERE,
        "1m30s",
        "2m",
    ),
    "ManipleBrokerDown": Case({f"up{OF_BROKER}": "1 0x9"}, BROKER, "1m30s", "2m"),
    "ManiplePublishingBlocked": Case(
        {"maniple_publishing_blocked{link='publish', environment='dev'}": "0 1x9"}, HERE, "1m", "2m"
    ),
    "ManipleBrokerMemoryHigh": Case(
        {
            f"rabbitmq_process_resident_memory_bytes{OF_BROKER}": "79 81x9",
            f"rabbitmq_resident_memory_limit_bytes{OF_BROKER}": "100x9",
        },
        BROKER,
        "2m30s",
        "3m",
    ),
    "ManipleBrokerDiskLow": Case(
        {
            f"rabbitmq_disk_space_available_bytes{OF_BROKER}": "301 299x9",
            f"rabbitmq_disk_space_available_limit_bytes{OF_BROKER}": "100x9",
        },
        BROKER,
        "2m30s",
        "3m",
    ),
}


def test_some_alerts_are_about_metrics_that_others_have_too() -> None:
    assert any(OTHERS_TOO.search(rule["expr"]) for rule in ALERTS.values())


@pytest.mark.parametrize("name", ALERTS)
def test_brokers_and_processes_of_others_raise_no_alert(name: str) -> None:
    """One Prometheus may watch more than Maniple; queues are told by their names."""
    for _, asked in OTHERS_TOO.findall(ALERTS[name]["expr"]):
        assert 'job="' in asked


def rendered(text: str, labels: dict[str, str]) -> str:
    """Return an annotation as Prometheus writes it."""
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)


def unit_test(alert: str, case: Case) -> dict[str, Any]:
    """Return a test for promtool."""
    rule = ALERTS[alert]
    fired = {
        "exp_labels": {**case.labels, **rule["labels"]},
        "exp_annotations": {
            name: rendered(text, case.labels) for name, text in rule["annotations"].items()
        },
    }
    return {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": values} for name, values in case.series.items()
        ],
        "alert_rule_test": [
            {"alertname": alert, "eval_time": case.silent, "exp_alerts": []},
            {"alertname": alert, "eval_time": case.fires, "exp_alerts": [fired]},
        ],
    }


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    need(PROMTOOL)
    command = [str(program("promtool")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(ALERTS)


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_its_time_has_come_and_says_where(alert: str, tmp_path: Path) -> None:
    test = {
        "rule_files": [str(path) for path in sorted(RULES.glob("*.yml"))],
        "evaluation_interval": "15s",
        "tests": [unit_test(alert, CASES[alert])],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(test))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_can_read_its_configuration() -> None:
    done = promtool("check", "config", SOURCE / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    asked = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert asked <= BOUNDED


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_tells_what_to_look_at_and_what_to_do(alert: str) -> None:
    _, found, rest = RUNBOOK.read_text().partition(f"\n### {alert}\n")
    assert found, f"docs/runbook.md has no section {alert}"
    section = re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]
    for part in ("**Means**", "**Look**", "**Do**"):
        assert part in section, part


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    assert set(re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE)) == set(ALERTS)


@pytest.mark.parametrize("file", ["rules/alerts.yml", "rules/recording.yml"])
def test_rules_ask_for_metrics_that_are_declared(file: str) -> None:
    declared = {sample_name(spec) for spec in metric_names.ALL} | {
        spec.name for spec in metric_names.ALL
    }
    asked = {SUFFIX.sub("", name) for name in ASKED.findall((SOURCE / file).read_text())}
    assert asked <= declared


def test_the_limits_in_the_rules_are_those_of_the_topology() -> None:
    alerts, recorded = ((RULES / f"{name}.yml").read_text() for name in ("alerts", "recording"))
    assert topology.SUBMIT_LENGTH == topology.LANE_LENGTH == 800_000 / 0.8
    assert topology.DELAY_LENGTH == 4_000_000 / 0.8
    assert "> 800000" in alerts
    assert "> 4000000" in alerts
    assert f"/ {topology.RECORDS.arguments['x-max-length-bytes']}\n" in recorded
