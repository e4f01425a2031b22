"""`maniple_runtime.telemetry`: logs, metrics, trace context."""

import importlib
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from prometheus_client import generate_latest

from maniple_runtime import metric_names
from maniple_runtime.settings import ServiceSettings
from maniple_runtime.telemetry import (
    MAX_CHILDREN,
    Metrics,
    configure_logging,
    get_logger,
)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    importlib.import_module("faststream.rabbit")  # sets up logging of its own
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(ServiceSettings(instance="p1"), stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_lines_and_the_librarys_have_one_form(lines: io.StringIO) -> None:
    get_logger("maniple.test").info("done", task_id="t1")
    logging.getLogger("somebody").warning("careful %s", "now")
    ours, theirs = read(lines)
    assert ours["event"] == "done"
    assert ours["task_id"] == "t1"
    assert theirs["event"] == "careful now"
    for line in (ours, theirs):
        assert (line["service"], line["instance"]) == ("service", "p1")
        assert line["timestamp"].endswith("Z")


def test_chatty_libraries_speak_from_warning_on(lines: io.StringIO) -> None:
    for name in ("aiormq.connection", "faststream", "aio_pika.robust"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("trouble")
    assert [line["event"] for line in read(lines)] == ["trouble"] * 3


def test_no_line_shows_a_password_not_even_a_traceback(lines: io.StringIO) -> None:
    log = get_logger()
    log.info("connecting", url="amqp://u:secret@host/dev")
    log.error("failed", exc_info=ConnectionError("cannot reach amqp://u:secret@host/dev"))
    assert "secret" not in lines.getvalue()
    assert "ConnectionError" in read(lines)[1]["exception"]


def test_lines_for_eyes_hide_as_much(lines: io.StringIO) -> None:
    configure_logging(ServiceSettings(instance="p1", log_format="console"), lines)
    secret = "se" + "cret"  # not in the source line, which a traceback shows

    def fail(url: str) -> None:
        raise ConnectionError(f"{url} is away")

    try:
        fail(f"amqp://agent:{secret}@h/dev")
    except ConnectionError:
        get_logger("maniple.test").exception("lost")
    assert "amqp://agent:***@h/dev is away" in lines.getvalue()
    assert secret not in lines.getvalue()


def test_every_metric_is_listed_and_has_our_prefix_and_no_label_without_bounds() -> None:
    declared = {v for v in vars(metric_names).values() if isinstance(v, metric_names.MetricName)}
    assert declared == set(metric_names.ALL)
    for spec in declared:
        assert spec.name.startswith("maniple_")
        assert not {"task", "task_id", "agent", "agent_id", "id"} & set(spec.labels)


def test_children_are_kept_and_label_sets_are_bounded() -> None:
    metrics = Metrics()
    first = metrics.counter(metric_names.TASKS_ACCEPTED, "text.stats")
    assert metrics.counter(metric_names.TASKS_ACCEPTED, "text.stats") is first
    for number in range(MAX_CHILDREN * 2):
        metrics.counter(metric_names.TASKS_ACCEPTED, f"c{number}").inc()
    text = generate_latest(metrics.registry).decode()
    assert text.count("maniple_tasks_accepted_total{") == MAX_CHILDREN + 1
    other = 'maniple_tasks_accepted_total{capability="other"}'
    assert f"{other} {MAX_CHILDREN + 1}.0" in text


def test_a_gauge_can_be_set_anew_from_a_whole_picture() -> None:
    metrics = Metrics()
    metrics.gauge(metric_names.AGENTS, "active").set(3)
    metrics.forget_series(metric_names.AGENTS)
    metrics.gauge(metric_names.AGENTS, "failed").set(1)
    text = generate_latest(metrics.registry).decode()
    assert 'state="active"' not in text
    assert 'maniple_agents{state="failed"} 1.0' in text
