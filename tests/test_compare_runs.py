"""Comparing runs that are there already: the command, what it refuses, its page, and runs side by side."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.cli import app as cli
from foveate.compare.folders import folder_of, labelled
from foveate.errors import UsageError
from foveate.evaluate import evaluate_predictions
from foveate.evaluate.comparing.paired import LOCATED
from foveate.evaluate.localization import CaseScore
from foveate.evaluate.scores import write_scores
from foveate.evaluate.table import PredictionTable, read_predictions, write_predictions
from foveate.files import write_json
from foveate.types import Prediction
from made_results import card_that_says, probes_that_found
from page import Node, parse
from report_run import write_run

CLASSES = ("cyst", "FNH", "HCC")


def rewrite(folder: Path, table: PredictionTable) -> None:
    """Put other predictions into a run, and their figures."""
    rows = zip(table.case_ids, table.patient_ids, table.splits, strict=True)
    predictions = [
        Prediction(*names, table.logits[n], table.probabilities[n], table.truth[n])
        for n, names in enumerate(rows)
    ]
    write_predictions(folder / "predictions.csv", table.task, table.classes, predictions)
    evaluate_predictions(table, n_boot=100).write(folder)


def noisier(table: PredictionTable, noise: float, seed: int) -> PredictionTable:
    """The same cases by a model that is less sure."""
    logits = table.logits + noise * np.random.default_rng(seed).normal(size=table.logits.shape)
    odds = np.exp(logits)
    return replace(table, logits=logits, probabilities=odds / odds.sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs on the same 24 patients: ``runs/<name>/seed0``."""
    folder = tmp_path_factory.mktemp("compare") / "runs"
    first = write_run(folder / "ours" / "seed0", classes=CLASSES, patients=24, per_patient=1)
    table = read_predictions(first / "predictions.csv").part("test")
    rows = zip(table.case_ids, table.patient_ids, table.truth.argmax(axis=1), strict=True)
    scores = [
        CaseScore(case, patient, CLASSES[k], "heatmap", float(number % 3 > 0), 0.3, 0.4, 0.2, 0.5, 0.1, False)
        for number, (case, patient, k) in enumerate(rows)
    ]
    write_scores(first / "localization.csv", scores)
    for number, (name, noise) in enumerate({"plain": 3.0, "twin": 0.05}.items()):
        copy = folder / name / "seed0"
        shutil.copytree(first, copy)
        rewrite(copy, noisier(read_predictions(first / "predictions.csv"), noise, number))
    return folder


def named(runs: Path, *names: str) -> list[str]:
    return [str(runs / name / "seed0") for name in names]


def foveate(*arguments: object) -> None:
    cli.app([str(item) for item in arguments], standalone_mode=False)


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "comparison.json").read_text())
    return found


@pytest.fixture(scope="module")
def compared(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    foveate("compare", *named(runs, "ours", "plain", "twin"), "--out", out)
    return out


@pytest.mark.slow
def test_figures_are_those_of_the_runs_and_every_pair_is_told(runs: Path, compared: Path) -> None:
    found = result(compared)
    assert list(found["figures"]) == ["ours", "plain", "twin"] and found["reference"] == "ours"
    for name, figures in found["figures"].items():
        metrics = json.loads((runs / name / "seed0" / "metrics.json").read_text())
        for figure, value in metrics["metrics"].items():
            if figure in figures:
                assert figures[figure]["value"] == pytest.approx(value["value"]), figure
        assert figures["ece"]["value"] == pytest.approx(metrics["calibration"]["ece"]["value"])
    pairs = [(pair["first"], pair["second"]) for pair in found["pairs"]]
    assert pairs == [("plain", "ours"), ("twin", "ours"), ("twin", "plain")]
    assert found["patients"] == found["cases"]["0"] == 18
    assert found["figures"]["ours"]["pointing_game"]["value"] == pytest.approx(2 / 3)
    assert found["differences"]["twin"]["pointing_game"]["value"] == 0  # the same heat maps


def test_page_markdown_and_csv_tell_the_same(compared: Path) -> None:
    found = result(compared)
    text, page = (compared / "comparison.md").read_text(), (compared / "comparison.html").read_text()
    tree = parse(page)
    sentences = [pair["sentence"] for pair in found["pairs"]]
    assert [item.text for item in tree.one("ul", class_="sentences").all("li")] == sentences
    assert all(f"- {sentence}" in text for sentence in sentences)
    tables = {section.one("h2").text: section for section in tree.all("section") if section.all("table")}
    assert {
        "Figures",
        "Paired differences",
        "Ranks",
        "Decisions",
        "Single classes, paired",
        "Variants",
    } <= set(tables)
    paired = found["pairs"][0]["differences"]["auroc_macro"]
    first = tables["Paired differences"].all("tr")[1]
    assert first.one("th").text == "plain − ours"
    cell = first.all("td")[0].text
    assert cell.startswith(f"{paired['value']:+.3f}".replace("-", "−")) and "p = " in cell.replace("<", "=")
    assert len(tables["Single classes, paired"].all("tr")) == 1 + 3 * len(CLASSES)
    with (compared / "comparison.csv").open(newline="") as stream:
        rows = {(row["variant"], row["kind"], row["figure"]): row for row in csv.DictReader(stream)}
    assert float(rows["plain", "difference to ours", "auroc_macro"]["p_holm"]) == paired["p_holm"]
    test = found["pairs"][0]["per_class"]["HCC"]["delong"]
    assert float(rows["plain", "difference to ours, DeLong", "HCC: auroc"]["p"]) == test["p"]
    decided = found["pairs"][0]["decisions"]
    lead = (decided["only_first"] - decided["only_second"]) / decided["n"]
    assert float(rows["plain", "difference to ours, McNemar", "decided right"]["value"]) == lead
    assert lead == pytest.approx(found["pairs"][0]["differences"]["accuracy"]["value"])


def test_page_is_self_contained_and_has_its_charts(compared: Path) -> None:
    page = (compared / "comparison.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "").replace(
        "http://www.w3.org", ""
    )
    labels = [node.attributes["aria-label"] for node in parse(page).all("svg")]
    assert {"Macro AUROC of every variant", "Mean ranks by Macro AUROC"} <= set(labels)
    assert "Paired differences of ECE (lower is better)" in labels


def drop_one(runs: Path, name: str, target: Path) -> Path:
    """A copy of a run that lacks a test case and has another truth for a second one."""
    shutil.copytree(runs / name / "seed0", target)
    table = read_predictions(target / "predictions.csv")
    tested = [number for number, part in enumerate(table.splits) if part == "test"]
    keep = np.ones(len(table.case_ids), dtype=bool)
    keep[tested[3]] = False
    rewrite(target, table.only(keep))
    return target


@pytest.mark.slow
def test_other_cases_are_refused_unless_the_shared_ones_are_asked_for(runs: Path, tmp_path: Path) -> None:
    (ours,) = named(runs, "ours")
    lacking = drop_one(runs, "plain", tmp_path / "lacking")
    with pytest.raises(UsageError, match=r"test cases \(1 case: case-\d+-0 only in .*ours") as caught:
        foveate("compare", ours, lacking, "--out", tmp_path / "out")
    assert "--shared" in str(caught.value) and not (tmp_path / "out").exists()
    foveate("compare", ours, lacking, "--shared", "--out", tmp_path / "out")
    found = result(tmp_path / "out")
    assert found["cases"] == {"0": 17}
    assert found["notes"] == ["1 test cases that not all runs have are left out"]
    table = read_predictions(lacking / "predictions.csv")
    rewrite(lacking, replace(table, truth=np.roll(table.truth, 1, axis=1)))
    with pytest.raises(UsageError, match=r"true classes \(of 17 cases"):
        foveate("compare", ours, lacking, "--shared", "--out", tmp_path / "other")


def test_what_makes_no_sense_is_refused(runs: Path, tmp_path: Path) -> None:
    ours, plain = named(runs, "ours", "plain")
    shutil.copytree(plain, tmp_path / "bare")
    (tmp_path / "bare" / "metrics.json").unlink()
    (tmp_path / "study.yaml").write_text("name: x\n")
    refused = {
        (ours, tmp_path / "bare"): "bare has no metrics.json: foveate evaluate",
        (ours,): "needs two different runs",
        (ours, ours): "needs two different runs",
        (ours, plain, "--seeds", 2): "are for studies",
        (ours, plain, "--reference", "other"): "choose from: ours, plain",
        (ours, tmp_path / "study.yaml"): "either runs, or studies, or a grid",
        (tmp_path / "study.yaml", "--shared"): "--shared is for runs",
    }
    for arguments, said in refused.items():
        with pytest.raises(UsageError, match=said):
            foveate("compare", *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_are_named_by_what_tells_them_apart() -> None:
    def names(*folders: str) -> list[str]:
        return list(labelled([Path(folder) for folder in folders]))

    assert names("out/runs/plain/seed0", "out/runs/ours/seed0") == ["plain", "ours"]
    assert names("out/runs/ours/seed0", "out/runs/ours/seed1") == ["seed0", "seed1"]
    assert names("a/x/seed0", "b") == ["a/x/seed0", "b"]
    assert names("a/x", "a/x/x") == ["a/x", "a/x/x"]
    assert folder_of(["a/x", "b"]) == Path("comparisons/a_x vs b")
    assert len(folder_of(["long" * 20, "name" * 20]).name) == 100


def side_by_side(tmp_path: Path, *folders: Path | str) -> tuple[Node, dict[str, Node]]:
    foveate("report", "--compare", *folders, "--out", tmp_path / "side")
    tree = parse((tmp_path / "side" / "report.html").read_text())
    return tree, {section.one("h2").text: section for section in tree.all("section") if section.all("table")}


def test_runs_side_by_side_show_what_each_has_found(runs: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    shutil.copytree(runs / "ours" / "seed0", ours)
    card_that_says("gradcam", "not shown to be better than an edge map").write(ours)
    probes_that_found("a marker at the top right decides").write(ours)
    (ours / "report.html").write_text("page")
    metrics = json.loads((ours / "metrics.json").read_text())
    mended = {
        "ece": {**metrics["calibration"]["ece"], "value": 0.0123},
        "bins": metrics["calibration"]["bins"],
        "change": {},
    }
    write_json(
        ours / "metrics.json", metrics | {"calibration": {**metrics["calibration"], "calibrated": mended}}
    )
    maps = json.loads((ours / "localization.json").read_text())
    kept = {name: {"value": 0.4321, "low": None, "high": None, "n": 1, "patients": 1} for name in LOCATED}
    maps["comparable"] = {CLASSES[0]: {"cases": 1, **kept}}
    write_json(ours / "localization.json", maps)
    (plain,) = named(runs, "plain")
    tree, tables = side_by_side(tmp_path, ours, plain)
    assert "0.432" in tables["Pointing game by class"].all("tr")[2].text
    assert "0.432" not in tables["Pointing game by class"].all("tr")[3].text
    assert "0.012" in tables["Calibrated probabilities"].all("tr")[1].text
    shown = tables["Figures"].all("tr")[1].all("td")[0].text
    assert shown.startswith(f"{metrics['metrics']['auroc_macro']['value']:.3f}")
    assert f"{metrics['calibration']['ece']['value']:.3f}" in tables["Calibration"].all("tr")[1].text
    assert {"Localization", "Trust in heat maps", "Shortcuts"} <= set(tables)
    assert "not shown to be better than an edge map" in tables["Trust in heat maps"].text
    assert "a marker at the top right decides" in tables["Shortcuts"].text
    assert "not tested on the same cases" not in tree.text
    assert "../ours/report.html" in tree.one("section", id="protocol").text
    assert "no report yet" in tree.one("section", id="protocol").text


def test_side_by_side_says_when_cases_differ(runs: Path, tmp_path: Path) -> None:
    ours = Path(shutil.copytree(runs / "ours" / "seed0", tmp_path / "ours"))
    lacking = drop_one(runs, "plain", tmp_path / "lacking")
    for folder in (ours, lacking):
        (folder / "trust.json").unlink()
    tree, tables = side_by_side(tmp_path, ours, lacking)
    assert "these runs were not tested on the same cases" in tree.all("div", class_="cautions")[-1].text
    assert "Trust in heat maps" not in tables
    with pytest.raises(UsageError, match="with --compare"):
        foveate("report", *named(runs, "ours", "plain"))
