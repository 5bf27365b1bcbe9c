"""Calibration and operating points in the report: the figures of the files, and why some are not fitted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_allclose

from foveate.evaluate.results.probabilities import CalibrationBin
from foveate.report.build import environment
from foveate.report.figures.calibration import class_figure
from foveate.report.files import RunFiles
from foveate.report.sections.calibration import calibration, operating_points
from foveate.report.sections.section import Section
from page import Node, parse
from report_run import write_run

FINDINGS = ("Atelectasis", "Effusion", "Mass")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("multiclass"))


@pytest.fixture(scope="module")
def findings_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("multilabel")
    return write_run(folder, task="multilabel", classes=FINDINGS, absent=("Mass",))


def rendered(section: Section | None) -> Node:
    assert section is not None and section.content is not None
    template = environment().from_string(
        '{% import "macros.html.j2" as show %}{% include "sections/" ~ section.anchor ~ ".html.j2" %}'
    )
    return parse(template.render(section=section, content=section.content))


def metrics_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())  # type: ignore[no-any-return]


def triple(value: dict[str, Any]) -> list[float]:
    return [value[name] for name in ("value", "low", "high") if value[name] is not None]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "findings_run"])
def test_raw_calibrated_and_change_are_those_of_the_file(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    page, raw = rendered(calibration(RunFiles.read(folder))), metrics_of(folder)["calibration"]
    calibrated = raw["calibrated"]
    table = page.one("table", class_="calibration")
    for key in ("ece", "ece_equal_mass", "ece_classwise", "brier", "reliability", "resolution", "log_loss"):
        change = triple(calibrated["change"][key]) if key in calibrated["change"] else []
        numbers = table.one("tr", data_figure=key).numbers
        assert numbers == [*triple(raw[key]), *triple(calibrated[key]), *change], key
    by_class = page.one("table", class_="calibration-classes")
    for name, found in raw["per_class"].items():
        other = calibrated["per_class"][name]
        expected = [
            v for key in ("ece", "brier", "excess") for part in (found, other) for v in triple(part[key])
        ]
        assert by_class.one("tr", data_class=name).numbers == expected, name
    assert len(page.all("svg")) == 2 + len(raw["per_class"])


@pytest.mark.slow
def test_how_it_was_fitted_is_said(run: Path, findings_run: Path) -> None:
    fit = json.loads((run / "bundle" / "bundle.json").read_text())["calibration"]["fits"][0]
    text = rendered(calibration(RunFiles.read(run))).text
    surer = "surer" if fit["parameters"]["temperature"] > 1 else "less sure"
    assert f"Temperature scaling, fitted on {fit['cases']} validation cases: temperature" in text
    assert f"the raw answers are {surer} than they should be" in text
    text = rendered(calibration(RunFiles.read(findings_run))).text
    assert "Platt’s method, fitted on 30 validation cases, for" in text
    assert "Mass: validation cases with it: 0 of 30, fewer than 5" in text


def test_operating_points_are_those_of_the_file(findings_run: Path) -> None:
    page = rendered(operating_points(RunFiles.read(findings_run)))
    points = metrics_of(findings_run)["operating_points"]
    assert list(points) == ["Atelectasis", "Effusion"]
    for name, point in points.items():
        values = [v for key in ("sensitivity", "specificity", "ppv", "npv") for v in triple(point[key])]
        assert page.one("tr", data_class=name).numbers == [point["chosen"]["threshold"], *values]
    assert "No threshold for Mass" in page.text
    assert "highest sensitivity + specificity" in page.text


def test_metrics_of_older_versions_are_shown(run: Path, tmp_path: Path) -> None:
    metrics = metrics_of(run)
    metrics["calibration"] = {name: metrics["calibration"][name] for name in ("ece", "brier", "bins")}
    del metrics["operating_points"]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    files = RunFiles.read(tmp_path)
    assert operating_points(files) is None
    page = rendered(calibration(files))
    rows = page.one("table", class_="calibration").all("tr")[1:]
    assert [row.attributes["data-figure"] for row in rows] == ["ece", "brier"]
    assert len(page.all("svg")) == 1 and "alibrated" not in page.text


def test_curves_of_a_class_leave_empty_bins_out() -> None:
    raw = [
        CalibrationBin(low=0.0, high=0.5, confidence=0.4, accuracy=0.25, n=4),
        CalibrationBin(low=0.5, high=1.0, confidence=None, accuracy=None, n=0),
    ]
    calibrated = [CalibrationBin(low=0.0, high=1.0, confidence=0.3, accuracy=0.25, n=4)]
    (axes,) = class_figure(raw, calibrated).axes
    drawn = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    assert_allclose(drawn["raw"], [[0.4, 0.25]])
    assert_allclose(drawn["calibrated"], [[0.3, 0.25]])
    assert "calibrated" not in [line.get_label() for line in class_figure(raw, None).axes[0].get_lines()]


@pytest.mark.slow
def test_which_probabilities_to_go_by_is_said(run: Path) -> None:
    files = RunFiles.read(run)
    fit = {"parameters": {"temperature": 1.25}, "cases": 85, "reason": None, "share": 0.6}
    check = {"raw": 0.512, "kept": 0.491, "whole": 0.5, "error": 0.008, "patients": 40}
    found = {"task": "multiclass", "method": "temperature"}

    def text(fits: list[dict[str, Any]], **other: str) -> str:
        told = {**(files.bundle or {}), "calibration": {**found, **other, "fits": fits}}
        return rendered(calibration(replace(files, bundle=told))).text

    kept = text([{**fit, "check": check}])
    assert "Of the correction that fits these cases best, 60 % is kept, which lowers the log loss" in kept
    assert "by 0.021 ± 0.008 (cross-validated over 40 patients). Go by the calibrated probabilities." in kept
    reason = "not shown to help: log loss 0.512 without and 0.519 with it"
    left = text([{**fit, "parameters": None, "share": 0.0, "reason": reason, "check": check}])
    assert "was tried on 85 validation cases and not kept. Go by the raw probabilities." in left
    assert reason in left
    old = text([{"parameters": {"temperature": 1.25}, "cases": 85, "reason": None}])  # of version 0.1.0
    assert "should be. Go by the calibrated probabilities." in old
    few = {"parameters": None, "cases": 3, "reason": "few"}
    others = [few] * (len((files.bundle or {})["classes"]) - 1)
    some = text([{**fit, "check": check}, *others], task="multilabel", method="platt")
    assert "Go by the calibrated probabilities where there are any, by the raw ones elsewhere." in some
    assert "None was asked for. Go by the raw probabilities." in text([], method="none")
