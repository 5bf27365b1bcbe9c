"""``foveate compare``: two variants and two seeds, interrupted, resumed, one failing."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from command_line import foveate
from foveate.compare.grid import GridPlan
from foveate.compare.runs import check_plan
from foveate.data.phantoms.ct import make_phantom
from foveate.errors import UsageError
from foveate.evaluate.table import read_predictions
from page import parse

pytestmark = pytest.mark.slow

STUDY = """\
name: small
data: {manifest: phantom/manifest.csv}
split: {test: 0.3, val: 0.3}
preprocess: {size: [32, 32], window: [-60, 240], neighbours: 1, organ_crop: true}
model: {name: dadrn50, options: {width: 0.125, depths: [1, 1, 1, 1]}}
train: {epochs: 1, batch_size: 8}
evaluate: {bootstrap: 100}
"""
GRID = """\
name: tiny
base: small.yaml
seeds: [0, 1]
reference: plain
variants:
  dual: {}
  plain: {model: {name: "timm:test_resnet"}, preprocess: {size: [48, 48]}}
"""
RUNS = [f"{label}/seed{seed}" for seed in (0, 1) for label in ("dual", "plain")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom, two studies, and the comparison of a grid."""
    folder = tmp_path_factory.mktemp("compare")
    make_phantom(folder / "phantom", patients=20, slices=2, size=64, format="png")
    (folder / "small.yaml").write_text(
        STUDY.replace("neighbours: 1, ", "").replace("window: [-60, 240], ", "")
    )
    (folder / "grid.yaml").write_text(GRID)
    done = foveate("compare", "--grid", "grid.yaml", "--out", "out", folder=folder)
    assert done.code == 0, done.out + done.err
    assert "run 4 of 4: plain, seed 1" in done.out and "left" in done.out
    return folder


def result(workplace: Path, out: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workplace / out / "comparison.json").read_text())
    return found


def test_all_runs_share_the_split_and_differ_in_seed(workplace: Path) -> None:
    splits = {(workplace / "out" / "runs" / run / "splits.json").read_bytes() for run in RUNS}
    assert splits == {(workplace / "out" / "splits" / "0" / "splits.json").read_bytes()}
    tables = [read_predictions(workplace / "out" / "runs" / run / "predictions.csv") for run in RUNS]
    assert len({table.case_ids for table in tables}) == 1
    assert not (tables[0].logits == tables[2].logits).all()  # the same variant with another seed


def test_the_tables_hold_what_the_runs_found(workplace: Path) -> None:
    found = result(workplace)
    for run in RUNS:
        label, seed = run.split("/seed")
        folder = workplace / "out" / "runs" / run
        metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
        located = json.loads((folder / "localization.json").read_text())["overall"]["methods"]["heatmap"]
        for figure in ("auroc_macro", "balanced_accuracy", "f1_macro"):
            assert found["figures"][label][figure]["seeds"][seed] == pytest.approx(metrics[figure]["value"])
        for figure in ("pointing_game", "iou", "energy_inside"):
            assert found["figures"][label][figure]["seeds"][seed] == pytest.approx(located[figure]["value"])
    own, other = (found["figures"][label]["auroc_macro"]["value"] for label in ("dual", "plain"))
    assert found["reference"] == "plain"
    assert found["differences"]["dual"]["auroc_macro"]["value"] == pytest.approx(own - other)
    assert found["failures"] == [] and found["notes"] == []
    with (workplace / "out" / "comparison.csv").open(newline="") as stream:
        rows = {(row["variant"], row["kind"], row["figure"]): row for row in csv.DictReader(stream)}
    assert float(rows["dual", "own", "auroc_macro"]["value"]) == own
    assert float(rows["dual", "published", "accuracy"]["value"]) == 0.869  # DADRN50-B, of its card
    assert "published, other data" in rows["dual", "published", "accuracy"]["note"]
    assert int(rows["dual", "cost", "parameters"]["value"]) == found["variants"]["dual"]["parameters"]


def test_page_and_markdown_show_the_same_numbers_and_what_was_changed(workplace: Path) -> None:
    found = result(workplace)
    text = (workplace / "out" / "comparison.md").read_text()
    page = (workplace / "out" / "comparison.html").read_text()
    value = found["figures"]["dual"]["auroc_macro"]
    shown = f"{value['value']:.3f} ± {value['sd']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    cells = [[cell.text for cell in row.all("td")] for row in parse(page).all("tr", data_variant="dual")]
    assert cells[0][0] == shown and f"| dual † | {shown} |" in text
    assert "preprocess.size: [48, 48] → [32, 32]" in text and "preprocess.size: [48, 48] → [32, 32]" in page
    assert "| plain † |" not in text  # the reference itself differs in nothing
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_classes_and_cases_of_the_first_seed_stand_on_the_page(workplace: Path) -> None:
    found = result(workplace)
    assert found["side_by_side"]["runs"] == ["plain", "dual"]
    assert found["side_by_side"]["notes"] == [
        "of every variant the run of seed 0 is shown, the first that all have"
    ]
    page = parse((workplace / "out" / "comparison.html").read_text()).one("section", id="cases")
    shown = [node.attributes["data-case"] for node in page.all("article")]
    assert shown == [case["case_id"] for case in found["side_by_side"]["cases"]] and shown
    for run in ("plain", "dual"):
        table = read_predictions(workplace / "out" / "runs" / run / "seed0" / "predictions.csv").part("test")
        assert set(shown) <= set(table.case_ids)
        recalls = [found["classes"][run][name]["recall"]["value"] for name in table.classes]
        assert sum(recalls) / 5 == pytest.approx(found["figures"][run]["balanced_accuracy"]["value"])
    assert {row["name"] for row in found["published_by_class"]} >= {"DADRN50-B", "DRN50"}


def test_finished_runs_are_not_trained_again_and_interrupted_ones_go_on(workplace: Path) -> None:
    shutil.copytree(workplace / "out", workplace / "again")
    before = result(workplace)
    whole, early = (workplace / "again" / "runs" / run for run in ("dual/seed0", "plain/seed1"))
    shutil.rmtree(whole / "bundle")  # weights may go: the results are there
    for name in ("metrics.json", "localization.csv", "localization.json"):
        (early / name).unlink()
    shutil.rmtree(workplace / "again" / "runs" / "dual" / "seed1")  # as if it had not been reached
    logs = {run: workplace / "again" / "runs" / run / "training.csv" for run in RUNS if run != "dual/seed1"}
    stamps = {run: log.stat().st_mtime_ns for run, log in logs.items()}
    done = foveate("compare", "--grid", "grid.yaml", "--out", "again", folder=workplace)
    assert done.code == 0, done.out + done.err
    assert done.out.count("finished before") == 2
    assert {run: log.stat().st_mtime_ns for run, log in logs.items()} == stamps
    after = result(workplace, "again")
    for part in ("figures", "differences", "protocol"):
        assert after[part] == before[part]  # the run that was repeated gave the same numbers


def test_a_variant_that_fails_does_not_lose_the_others(workplace: Path) -> None:
    shutil.copytree(workplace / "out", workplace / "failing")
    (workplace / "failing.yaml").write_text(GRID + "  broken: {train: {lr: 1.0e+30}}\n")
    done = foveate("compare", "--grid", "failing.yaml", "--out", "failing", folder=workplace)
    assert done.code == 5 and done.err.lstrip().startswith("partial"), done.err
    found = result(workplace, "failing")
    assert [(row["label"], row["seed"], row["station"]) for row in found["failures"]] == [
        ("broken", 0, "train"), ("broken", 1, "train"),
    ]  # fmt: skip
    assert found["figures"].keys() == {"dual", "plain"}
    assert found["figures"] == result(workplace)["figures"]
    for name in ("comparison.md", "comparison.html"):
        assert "broken, seed 1: failed at train [not-finite]" in (workplace / "failing" / name).read_text()


def test_folds_are_runs_of_their_own_and_together_test_every_case(workplace: Path) -> None:
    """In processes at once; the figures are the means over folds."""
    folds = STUDY.replace("{test: 0.3, val: 0.3}", "{folds: 2, val: 0.3}")
    (workplace / "folds.yaml").write_text(
        folds.replace("neighbours: 1, ", "").replace("window: [-60, 240], ", "")
    )
    grid = GRID.replace("small.yaml", "folds.yaml").replace("[0, 1]", "[3]").replace("tiny", "folded")
    (workplace / "folded.yaml").write_text(grid)
    done = foveate("compare", "--grid", "folded.yaml", "--out", "folded", "--jobs", "2", folder=workplace)
    assert done.code == 0, done.out + done.err
    assert "2 variants, 1 seed, 2 folds" in done.out and "plain, seed 3, fold 1: done" in done.out
    found = result(workplace, "folded")
    runs = workplace / "folded" / "runs"
    names = ["seed3-fold0", "seed3-fold1"]
    tested = [
        read_predictions(runs / "dual" / name / "predictions.csv").part("test").case_ids for name in names
    ]
    assert not set(tested[0]) & set(tested[1])
    assert len({*tested[0], *tested[1]}) == 40  # every case of the phantom
    each = [json.loads((runs / "dual" / name / "metrics.json").read_text())["metrics"] for name in names]
    figure = found["figures"]["dual"]["auroc_macro"]
    assert figure["seeds"] == {f"3, fold {k}": one["auroc_macro"]["value"] for k, one in enumerate(each)}
    assert figure["value"] == pytest.approx(sum(one["auroc_macro"]["value"] for one in each) / 2)
    assert "mean over 2 folds" in found["pairs"][0]["sentence"] and found["protocol"]["folds"] == 2
    assert (
        "Mean over folds ± standard deviation over folds" in (workplace / "folded/comparison.md").read_text()
    )


def test_whole_studies_with_a_split_of_each_seed(workplace: Path) -> None:
    text = (workplace / "small.yaml").read_text()
    (workplace / "other.yaml").write_text(text.replace("small", "other").replace("0.125", "0.25"))
    options = ("--seeds", 2, "--resplit", "--reference", "other")
    done = foveate("compare", "small.yaml", "other.yaml", *options, folder=workplace)
    assert done.code == 0, done.out + done.err
    found = result(workplace, "comparisons/comparison")
    hashes = found["protocol"]["splits_sha256"]
    assert hashes["0"] != hashes["1"] and found["reference"] == "other"
    runs = workplace / "comparisons" / "comparison" / "runs"
    for seed in (0, 1):
        (one, two) = (runs / label / f"seed{seed}" / "splits.json" for label in ("small", "other"))
        assert one.read_bytes() == two.read_bytes()


# What is wrong: how the grid is changed, and what the error says.
BAD = {
    "key of the grid": ("name: tiny", "name: tiny\nseed: [0]", ["seed: unknown key; did you mean 'seeds'?"]),
    "key of a variant": (
        "dual: {}",
        "dual: {train: {epoch: 3}}",
        ["variant dual: 1 problem", "train.epoch: unknown key; did you mean 'epochs'?"],
    ),
    "another protocol": (
        "dual: {}",
        "dual: {data: {label: diagnosis}, split: {test: 0.4}}",
        ["2 problems", "dual differs from plain in data.label: None → diagnosis", "split.test: 0.3 → 0.4"],
    ),
    "two models": (
        "dual: {}",
        "dual: {model: {options: {widht: 1}}}\n  lost: {model: {name: resnet}}",
        ["dual: dadrn50 has no option 'widht'", "lost: there is no model 'resnet'"],
    ),
    "reference": ("reference: plain", "reference: plane", ["'plane' is none of the variants (dual, plain)"]),
    "view": ("name: tiny", "name: tiny\nwithout: [t2]", ["names the view 't2'; this cohort has image"]),
    "a timm name": ("test_resnet", "test_resnet2", ["plain: ", "test_resnet2"]),
    "seed of a variant": (
        "dual: {}",
        "dual: {seed: 3}",
        ["name and seed are the grid's to set, not those of dual"],
    ),
    "runs of another grid": (
        "[48, 48]",
        "[56, 56]",
        ["2 problems", "plain/seed1 holds a run of a different study", "(--out)"],
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_grids_are_refused_before_anything_is_trained(workplace: Path, what: str) -> None:
    old, new, said = BAD[what]
    text = GRID.replace(old, new)
    assert text != GRID
    (workplace / "bad.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        check_plan(GridPlan.of_grid(workplace / "bad.yaml"), workplace / "out")
    for line in said:
        assert line in str(caught.value)


def test_studies_of_different_cohorts_are_refused(workplace: Path) -> None:
    text = (workplace / "small.yaml").read_text()
    (workplace / "elsewhere.yaml").write_text(
        text.replace("small", "elsewhere").replace("phantom/", "others/")
    )
    done = foveate("compare", "small.yaml", "elsewhere.yaml", folder=workplace)
    assert done.code == 2 and done.err.startswith("not-comparable")
    assert "elsewhere differs from small in data.manifest" in done.err
    with pytest.raises(UsageError, match="two studies are called small"):
        GridPlan.of_studies([workplace / "small.yaml", workplace / "small.yaml"])
