"""The page's statistics beyond the main figures: agreement, closed-form intervals, decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foveate.files import write_json
from foveate.report.build import write_report
from page import Node, parse
from report_run import write_run

pytestmark = pytest.mark.slow

CLASSES = ("cyst", "FNH", "HCC")
FINDINGS = ("Effusion", "Hernia", "Mass")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("classes"), classes=CLASSES, patients=24)


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("findings")
    return write_run(folder, task="multilabel", classes=FINDINGS, patients=24, absent=("Hernia",))


def page_of(run: Path) -> Node:
    return parse(write_report(run).read_text())


def metrics_of(run: Path) -> Any:
    return json.loads((run / "metrics.json").read_text())


def figures(value: dict[str, Any]) -> list[float]:
    return [value[key] for key in ("value", "low", "high") if value[key] is not None]


@pytest.mark.parametrize("kind", ["run", "findings"])
def test_decisions_are_those_of_the_file(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    section, metrics = page_of(folder).one("section", id="decisions"), metrics_of(folder)
    curves = metrics["decision_curves"]["per_class"]
    assert len(section.all("figure")) == len(curves)
    table = section.one("table", class_="net-benefit")
    for name, found in curves.items():
        told = [number for at in found["at"].values() for number in figures(at["gain"])]
        assert table.one("tr", data_class=name).numbers == told
    first = next(iter(metrics["at_prevalence"]))
    elsewhere, row = metrics["at_prevalence"][first], section.one("table", class_="prevalence")
    shares = [0.05, elsewhere["observed"]]
    expected = [*shares, *figures(elsewhere["ppv"]), *figures(elsewhere["npv"])]
    assert row.one("tr", data_class=first).numbers == expected


def test_agreement_tells_the_order_that_was_taken(run: Path, findings: Path) -> None:
    section, told = page_of(run).one("section", id="confusion"), metrics_of(run)["agreement"]
    expected = [number for value in told["metrics"].values() for number in figures(value)]
    assert section.one("ul", class_="agreement").numbers == expected
    assert "cyst < FNH < HCC" in section.text
    section = page_of(findings).one("section", id="confusion")
    assert "averaged over findings" in section.text
    assert "Weighted kappas" not in section.text
    assert len(section.one("ul", class_="agreement").all("li")) == 2


def test_closed_form_intervals_say_what_they_assume(run: Path) -> None:
    section, told = page_of(run).one("section", id="performance"), metrics_of(run)["delong"]
    assert f"it assumes {told['assumes']}" in section.text
    for name, value in told["per_class"].items():
        (item,) = (
            node
            for node in section.one("ul", class_="fine delong").all("li")
            if node.text.startswith(f"{name}:")
        )
        assert item.numbers == figures(value)
    assert "95 % intervals, bias-corrected and accelerated (BCa), from 200" in section.text


def test_figures_of_an_older_version_are_shown_without_what_it_did_not_tell(
    run: Path, tmp_path: Path
) -> None:
    metrics = metrics_of(run)
    for name in ("delong", "agreement", "decision_curves", "at_prevalence"):
        del metrics[name]
    del metrics["bootstrap"]["interval"]
    write_json(tmp_path / "metrics.json", metrics)
    page = page_of(tmp_path)
    assert not page.all("section", id="decisions")
    assert not page.all("ul", class_="agreement")
    assert "DeLong" not in page.one("section", id="performance").text
    assert "95 % intervals from 200" in page.one("section", id="performance").text


def test_a_finding_that_nobody_knows_has_no_decision_curve(findings: Path, tmp_path: Path) -> None:
    metrics = metrics_of(findings)
    metrics["decision_curves"]["per_class"]["Mass"]["model"] = [None] * 99
    write_json(tmp_path / "metrics.json", metrics)
    section = page_of(tmp_path).one("section", id="decisions")
    assert "undefined for Mass" in section.text
    assert len(section.all("figure")) == 2
