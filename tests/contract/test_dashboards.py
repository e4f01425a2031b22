"""The dashboards of infra/grafana are what is described, complete, and lead to what is there."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from maniple_runtime import metric_names
from paths import ROOT

GRAFANA = ROOT / "infra" / "grafana"
FILES = sorted(GRAFANA.glob("dashboards/*.json"))
BUILT_IN = {"__rate_interval"}
SUFFIX = re.compile(r"_(total|bucket|sum|count)$")
FOREIGN = re.compile(r"\b(up|ALERTS|process_\w+|rabbitmq_\w+)\b(\{[^}]*\})?")
each_board = pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])


def panels(file: Path) -> list[dict[str, Any]]:
    found = json.loads(file.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def provisioned(kind: str) -> dict[str, Any]:
    (file,) = GRAFANA.glob(f"provisioning/{kind}/*.yml")
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    return content


def test_the_files_are_what_the_descriptions_say(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "infra.grafana.generate", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert [file.name for file in sorted(tmp_path.iterdir())] == [file.name for file in FILES]
    for file in FILES:
        assert file.read_text() == (tmp_path / file.name).read_text(), " ".join(command[1:3])


@each_board
def test_no_panel_lacks_title_unit_or_description(file: Path) -> None:
    assert panels(file)
    for panel in panels(file):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]


@each_board
def test_panels_do_not_overlap(file: Path) -> None:
    taken = set()
    for panel in json.loads(file.read_text())["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, panel["title"]
                assert x < 24
                taken.add((x, y))


@each_board
def test_queries_use_metrics_and_variables_that_there_are(file: Path) -> None:
    declared = {spec.name for spec in metric_names.ALL}
    variables = {one["name"] for one in json.loads(file.read_text())["templating"]["list"]}
    for panel in panels(file):
        for target in panel["targets"]:
            asked = {SUFFIX.sub("", n) for n in re.findall(r"\bmaniple_\w+", target["expr"])}
            assert asked <= declared, panel["title"]
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used <= variables | BUILT_IN, panel["title"]


def test_boards_ask_for_metrics_of_ours_and_for_some_that_others_have_too() -> None:
    asked = [
        target["expr"] for file in FILES for panel in panels(file) for target in panel["targets"]
    ]
    assert sum("maniple_" in one for one in asked) > 20
    assert any(FOREIGN.search(one) for one in asked)


@each_board
def test_what_others_have_too_is_asked_of_ours_alone(file: Path) -> None:
    """One Prometheus may watch more than Maniple."""
    for panel in panels(file):
        for target in panel["targets"]:
            for metric, asked in FOREIGN.findall(target["expr"]):
                ours = 'alertname=~"Maniple' if metric == "ALERTS" else 'job="'
                assert ours in asked, panel["title"]


def test_sources_are_there_under_the_names_by_which_they_are_asked() -> None:
    sources = {one["uid"]: one for one in provisioned("datasources")["datasources"]}
    assert set(sources) == {"prometheus", "jaeger"}
    exemplars = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert [one["datasourceUid"] for one in exemplars] == ["jaeger"]
    assert sources["jaeger"]["jsonData"]["tracesToMetrics"]["datasourceUid"] == "prometheus"
    asked = {panel["datasource"]["uid"] for file in FILES for panel in panels(file)}
    assert asked == {"prometheus"}


def test_queries_from_a_trace_use_metrics_that_there_are() -> None:
    (jaeger,) = [one for one in provisioned("datasources")["datasources"] if one["uid"] == "jaeger"]
    queries = str(jaeger["jsonData"]["tracesToMetrics"]["queries"])
    asked = {SUFFIX.sub("", name) for name in re.findall(r"\bmaniple_\w+", queries)}
    assert asked
    assert asked <= {spec.name for spec in metric_names.ALL}
