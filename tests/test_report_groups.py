"""The sections on abstaining and on subgroups: their numbers are those of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foveate.files import write_json
from foveate.report.build import write_report
from page import Node, parse
from report_run import EVIL, write_run

pytestmark = pytest.mark.slow

KINDS: dict[str, dict[str, Any]] = {
    "multiclass": {"patients": 90},
    "multilabel": {"task": "multilabel", "classes": ("Effusion", "Mass"), "patients": 60},
}


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp(request.param), **KINDS[request.param])


@pytest.fixture(scope="module")
def page(run: Path) -> Node:
    return parse(write_report(run).read_text())


def metrics(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


def triple(value: dict[str, Any]) -> list[float]:
    return [value[key] for key in ("value", "low", "high") if value[key] is not None]


def test_sets_and_novelty_are_those_of_the_file(run: Path, page: Node) -> None:
    section, found = page.one("section", id="abstention"), metrics(run)["abstention"]
    for block, left_out in (("sets", {"size", "patient_coverage"}), ("novelty", set())):
        for name, value in found[block]["metrics"].items():
            if name not in left_out:
                assert section.one("tr", data_figure=name).numbers == triple(value)
    classes = section.one("table", class_="set-classes")
    for name, part in found["sets"]["per_class"].items():
        expected = [*triple(part["coverage"]), *triple(part["size"])]
        assert classes.one("tr", data_class=name).numbers == expected
    assert f"{sum(found['sets']['cases'][:1])} validation cases" in section.text


def test_orders_of_leaving_out_are_those_of_the_file(run: Path, page: Node) -> None:
    section, found = page.one("section", id="abstention"), metrics(run)["abstention"]["selective"]
    for order in ("confidence", "novelty"):
        figures = found[order]["metrics"]
        expected = [
            number
            for key in ("aurc", "error", "accuracy_at_90", "accuracy_at_80")
            for number in triple(figures[key])
        ]
        assert section.one("tr", data_order=order).numbers == expected
    assert len(section.all("svg", role="img")) == 1


def test_groups_gaps_and_patients_are_those_of_the_file(run: Path, page: Node) -> None:
    section, found = page.one("section", id="subgroups"), metrics(run)
    assert {"age", "sex", "site"} <= set(found["subgroups"])
    for name, column in found["subgroups"].items():
        shown = section.one("table", data_column=name)
        for group, part in column["groups"].items():
            numbers = [number for value in part.get("metrics", {}).values() for number in triple(value)]
            row = shown.one("tr", data_group=group)
            assert row.numbers == numbers
            assert numbers or "fewer than" in row.text
        gaps = [number for value in column["gaps"].values() for number in triple(value)]
        assert [number for row in shown.all("tr", class_="gap") for number in row.numbers] == gaps
    patient = section.one("table", class_="patient").numbers
    assert patient == [n for value in found["per_patient"]["metrics"].values() for n in triple(value)]
    assert section.one("tr", data_group=EVIL).all("th")[0].text == EVIL


def test_sections_say_what_is_missing(run: Path, tmp_path: Path) -> None:
    lacking = {"reason": "no such cases"}
    blocks: dict[str, Any] = {
        "subgroups": {},
        "per_patient": {"reason": "every patient has one case"},
        "abstention": {**metrics(run)["abstention"], "sets": lacking, "novelty": lacking},
    }
    write_json(tmp_path / "metrics.json", metrics(run) | blocks)
    page = parse(write_report(tmp_path).read_text())
    assert "every patient has one case" in page.one("section", id="subgroups").text
    assert "evaluate.subgroups" in page.one("section", id="subgroups").text
    assert page.one("section", id="abstention").text.count("no such cases") == 2
    older = {name: value for name, value in metrics(run).items() if name not in blocks}
    write_json(tmp_path / "metrics.json", older)
    page = parse(write_report(tmp_path).read_text())
    for anchor in ("subgroups", "abstention"):
        assert "foveate evaluate" in page.one("section", id=anchor).text
