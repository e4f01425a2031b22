"""The verdicts, tables and plots of `make bench`."""

import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from bench.features import GENEROUS
from bench.figures import Run, medians
from bench.plots import pictures
from bench.quick import compared
from bench.sides import CELERY, DRAMATIQ, DRAMATIQ_CONFIRMED, MAP, SIDES, SINGLE, SINGLE_CONFIRMED
from bench.stages import ALL, STAGES, Moments
from bench.svg import Axis
from bench.tables import SECTIONS, aligned, markdown, rendered, tables
from bench.targets import TARGETS, Target, Verdict, rows, shown

from maniple_policies.documents import parse_policy
from paths import ROOT


def found(**changes: Any) -> dict[str, Any]:
    """Return figures with which every target is met."""
    cost = {"client": 10.0, "broker": 30.0, "total": 40.0}
    loop = {"rate": 1000.0, "achieved": 1000.0, "p90": 1.0, "p99.9": 5.0, "us total": 500.0}
    loops = ("sdk_60_percent", "sdk_12000", "sdk_200", "single_1000")
    good: dict[str, Any] = {
        "flat_out": {side.name: medians([Run(9, 20_000.0, cost)]) for side in SIDES},
        "ratios": {
            "map_to_celery": 40.0,
            "map_to_dramatiq": 5.0,
            "celery_cost_to_map": 30.0,
            "single_to_celery": 7.0,
            "single_cost_to_dramatiq": 0.9,
        },
        "open_loop": {name: {**loop, "p50": 2.0, "p99": 5.0} for name in loops},
        "bytes": {MAP: {"received": 600.0, "sent": 700.0}},
        "memory_at_rest": {"agent-1": 50.0, "dispatcher-1": 40.0},
    }
    good["open_loop"]["sdk_12000"]["achieved"] = 11_990.0
    return {**good, **changes}


def verdicts(figures: dict[str, Any]) -> dict[str, str]:
    return {row["what"]: row["verdict"] for row in rows(figures)}


def test_all_is_met_when_all_is_well() -> None:
    assert set(verdicts(found()).values()) == {"met"}


def test_every_target_is_missed_when_nothing_is_well() -> None:
    bad = found(
        ratios=dict.fromkeys(found()["ratios"], 1.5),
        bytes={MAP: {"received": 1600.0}},
        memory_at_rest={"agent-1": 61.0, "agent-2": 20.0},
    )
    for one in bad["open_loop"].values():
        one |= {"p50": 99.0, "p99": 99.0, "us total": 1000.0, "achieved": 10.0}
    assert set(verdicts(bad).values()) == {"missed"}


def test_a_slow_machine_is_not_asked_to_carry_twelve_thousand() -> None:
    slow = found()
    slow["flat_out"][MAP]["rate"] = 17_000
    not_asked = [what for what, said in verdicts(slow).items() if said == "not asked"]
    assert len(not_asked) == 2
    assert all("12,000" in what for what in not_asked)
    del slow["open_loop"]["sdk_12000"]  # nor is it measured where that would be hopeless
    assert list(verdicts(slow).values()).count("not asked") == 2


def test_what_was_not_measured_is_not_met() -> None:
    assert set(verdicts({}).values()) == {"not measured"}


@pytest.mark.parametrize(("figure", "verdict"), [(30.0, Verdict.MET), (29.9, Verdict.MISSED)])
def test_a_bound_itself_meets_it(figure: float, verdict: Verdict) -> None:
    target = Target("", 30, "", lambda _: figure, at_least=True)
    assert target.verdict({}) == (figure, verdict)
    assert Target("", figure, "", lambda _: 30.0).verdict({})[1] is (
        Verdict.MET if figure >= 30 else Verdict.MISSED
    )


def test_figures_are_shown_with_three_digits() -> None:
    assert [shown(value, "ms") for value in (3.204, 12.34, 1234.5, 0.0)] == [
        "3.2 ms",
        "12.3 ms",
        "1,234 ms",
        "0 ms",
    ]


def test_the_ratios_are_those_that_targets_ask_for() -> None:
    costs = {
        SINGLE: (600.0, 50.0),
        CELERY: (100.0, 80.0),
        DRAMATIQ: (500.0, 1.0),
        DRAMATIQ_CONFIRMED: (50.0, 10.0),
        SINGLE_CONFIRMED: (1.0, 9.0),
        MAP: (3000.0, 2.0),
    }
    runs = {name: [Run(1, rate, {"total": us})] for name, (rate, us) in costs.items()}
    assert compared(runs) == {
        "map_to_celery": 30.0,
        "map_to_dramatiq": 6.0,
        "celery_cost_to_map": 40.0,
        "single_to_celery": 6.0,
        "single_cost_to_dramatiq": 0.9,
    }
    assert compared(runs).keys() == found()["ratios"].keys()


def test_a_table_has_a_line_for_each_target() -> None:
    head, body = tables(found())["targets"]
    assert len(body) == len(TARGETS)
    assert "aim" not in head
    assert aligned(head, body).splitlines()[1].endswith("met")


def test_a_cell_with_a_bar_stays_one_cell() -> None:
    assert markdown(["a"], [["x|y"]]) == "| a |\n| --- |\n| x\\|y |\n"


def test_tables_go_between_their_markers_and_nothing_else_changes() -> None:
    page = "a\n<!-- bench: rest -->\nold\n<!-- end -->\n"
    page += "<!-- bench: growth -->\nkept\n<!-- end -->\n"
    written = rendered(page, found())
    assert "old" not in written
    assert "kept" in written  # this run did not measure it
    assert rendered(written, found()) == written
    assert written.startswith("a\n<!-- bench: rest -->\n|")


def test_the_page_has_a_place_for_every_table() -> None:
    places = set(re.findall(r"<!-- bench: (\w+) -->", (ROOT / "docs/performance.md").read_text()))
    assert places == {"machine", "targets", "flat_out", "open_loop", "rest", *SECTIONS}


def test_plots_are_well_formed_and_without_a_background() -> None:
    growth = {"clients": [{"x": 1, "µs a task": 90.0}, {"x": 200, "µs a task": 99.0}]}
    drawn = pictures(found(growth=growth))
    assert drawn.keys() == {"latency", "processor_time", "ratios", "growth_clients"}
    for picture in drawn.values():
        ET.fromstring(picture)  # noqa: S314 - our own
        assert "background" not in picture
    assert pictures({}) == {}


def test_an_axis_is_logarithmic_when_its_values_span_a_lot() -> None:
    wide = Axis.of([1.0, 1000.0], 0.0, 300.0, spans=20)
    assert [wide.at(one) for one in wide.ticks()] == [0.0, 100.0, 200.0, 300.0]
    narrow = Axis.of([10.0, 50.0], 0.0, 100.0, spans=20)
    assert narrow.at(50.0) == 100.0
    assert narrow.ticks()[0] == 0.0


def test_the_stages_of_a_task_make_up_its_whole_time() -> None:
    stages = Moments((0.0, 0.001, 0.003, 0.006, 0.010, 0.015, 0.021), confirmed=0.005).stages()
    assert sum(stages[name] for name in STAGES) == pytest.approx(stages[ALL]) == 0.021
    assert [round(stages[name] * 1e3) for name in STAGES] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("kind", GENEROUS)
def test_the_policies_whose_cost_is_measured_are_valid(kind: str) -> None:
    document = {"kind": kind, "name": "bench", "spec": GENEROUS[kind]}
    assert parse_policy(document).kind == kind
