"""LCA-DB's five folds on a miniature of LLD-MMRI in its published layout: two commands, and their means."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import numpy as np
import pytest

import source_trees
from command_line import foveate
from foveate.data.sources.lld_mmri import CLASSES
from foveate.evaluate.table import read_predictions
from page import parse

pytestmark = pytest.mark.slow

FOLDS = 5
POOL = {f"MR{number}": number % 3 for number in range(30)}  # three classes, ten cases each
TEST = {f"MR{number}": number % 3 for number in range(30, 36)}
STUDY = """\
name: folds
data:
  manifest: lld/lld_mmri.csv
  label: label
  classes: [hemangioma, ICC, abscess]
split: {column: [fold1, fold2, fold3, fold4, fold5]}
preprocess: {size: [8, 16, 16], keep_aspect: false, intensity: zscore}
model: {name: resnet3d10, options: {width: 0.03125}}
train: {epochs: 1, batch_size: 8, plan: "off", precision: "32"}
evaluate: {bootstrap: 100}
seed: 5
"""


def printed(*arguments: str, folder: Path) -> str:
    done = foveate(*arguments, folder=folder)
    assert done.code == 0, done.out + done.err
    return done.out


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    root = source_trees.lld_regions(folder / "lld", POOL | TEST)
    folds = [
        {
            case: ("Val" if place // 3 % FOLDS == fold else "Train", label)
            for place, (case, label) in enumerate(POOL.items())
        }
        for fold in range(FOLDS)
    ]
    source_trees.lld_tables(root / "3subfold_lesionclassifier", folds, TEST)
    (folder / "study.yaml").write_text(STUDY)
    options = ("split=table", "table=3subfold_lesionclassifier")
    arguments = [word for option in options for word in ("--option", option)]
    text = printed("source", "lld-mmri", "lld", "-o", "lld/lld_mmri.csv", *arguments, folder=folder)
    assert "# then split: {column: [fold1, fold2, fold3, fold4, fold5]}" in text
    (folder / "printed.txt").write_text(printed("compare", "study.yaml", folder=folder))
    return folder


def test_each_fold_trains_on_its_own_cases_and_is_tested_on_the_same_ones(workplace: Path) -> None:
    runs = workplace / "comparisons" / "folds" / "runs" / "folds"
    assert sorted(path.name for path in runs.iterdir()) == [f"seed5-fold{fold}" for fold in range(FOLDS)]
    splits = json.loads((workplace / "comparisons" / "folds" / "splits" / "0" / "splits.json").read_text())
    validated: list[str] = []
    for fold, parts in enumerate(splits["folds"]):
        with (workplace / "lld" / "3subfold_lesionclassifier" / f"fold{fold + 1}.csv").open(
            newline=""
        ) as stream:
            published = {row["lesion_classifier"]: row["dataset"].lower() for row in csv.DictReader(stream)}
        assert parts == published | dict.fromkeys(TEST, "test")
        table = read_predictions(runs / f"seed5-fold{fold}" / "predictions.csv")
        assert set(table.part("test").case_ids) == set(TEST) and table.classes == CLASSES[:3]
        validated += table.part("val").case_ids
    assert sorted(validated) == sorted(POOL)


def test_the_mean_and_spread_of_the_five_results_are_told(workplace: Path) -> None:
    """Accuracy once more, from the predictions of each run."""
    out = workplace / "comparisons" / "folds"
    accuracies = []
    for fold in range(FOLDS):
        table = read_predictions(out / "runs" / "folds" / f"seed5-fold{fold}" / "predictions.csv").part(
            "test"
        )
        truth = [TEST[case] for case in table.case_ids]
        accuracies.append(float(np.mean(table.probabilities.argmax(axis=1) == truth)))
    found = json.loads((out / "comparison.json").read_text())["figures"]["folds"]["accuracy"]
    assert found["seeds"] == {f"5, fold {fold}": pytest.approx(each) for fold, each in enumerate(accuracies)}
    assert found["value"] == pytest.approx(statistics.mean(accuracies))
    assert found["sd"] == pytest.approx(statistics.stdev(accuracies))
    text = (workplace / "printed.txt").read_text()
    assert "1 variants" not in text and "5 folds" in text
    assert f"{found['value']:.3f}" in text and all(f"{each:.3f}" in text for each in accuracies)
    text = (out / "comparison.md").read_text()
    rows = text.split("## Each fold")[1].split("##")[0].splitlines()
    assert [f"| 5, fold {fold} |" in row for fold, row in enumerate(rows[-FOLDS - 1 : -1])] == [True] * FOLDS
    assert parse((out / "comparison.html").read_text())
