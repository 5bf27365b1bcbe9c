"""From a bundle of several views to heat maps, shares, boxes and scores on disk, for pictures and volumes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image as Picture

from foveate.bundle.bundle import Bundle, Patients, save_bundle
from foveate.cli import terminal
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.results.localization import Localization
from foveate.evaluate.results.views import ViewShares
from foveate.evaluate.table import read_predictions
from foveate.evaluate.view_shares import mean_shares
from foveate.explain.baselines import baselines_of
from foveate.explain.explainers import explain_batch
from foveate.explain.shares import ShareOptions, view_shares
from foveate.maps.heatmaps import read_case, read_index, read_shares, volume_name
from foveate.maps.regions import Region
from foveate.models import build_model
from foveate.predict import as_batch, read_and_prepare
from foveate.prepare.preprocess import Preprocess
from foveate.stations.audit import audit
from foveate.stations.averages import training_averages
from foveate.stations.explain import explain
from foveate.stations.explained import explain_cases, explain_options
from foveate.stations.localize import localize
from foveate.stations.predict import predict
from foveate.stations.run import Run
from foveate.stations.split import split as split_run
from foveate.stations.truths import Truths
from foveate.study.methods import RuleKind
from foveate.study.sections import ExplainConfig
from foveate.study.settings import PreprocessConfig
from foveate.study.study import Study
from foveate.types import Array, Box, quiet

SPLITS = ("train", "val", "val", "test", "test")
AFFINE = np.array([[-0.8, 0, 0, 40], [0, 0.7, 0, -30], [0, 0, 3.0, 12], [0, 0, 0, 1.0]])


def make_run(
    folder: Path, views: tuple[str, ...], model: dict[str, object], size: tuple[int, ...], extra: str = ""
) -> Run:
    """A run with a bundle of an untrained model and predictions, for the manifest in the folder."""
    study = f"""
name: explained
data: {{manifest: manifest.csv, views: [{", ".join(views)}]{extra}}}
preprocess: {{size: {list(size)}}}
model: {{name: {model["name"]}}}
explain: {{targets: both}}
evaluate: {{bootstrap: 100}}
split: {{column: split}}
"""
    (folder / "study.yaml").write_text(study)
    run = Run.create(Study.load(folder / "study.yaml"), folder / "run")
    torch.manual_seed(0)
    preprocess = Preprocess(PreprocessConfig(size=size))
    options = {name: value for name, value in model.items() if name != "name"}
    network = build_model(str(model["name"]), 2, preprocess.input_spec(views), options=options).eval()
    save_bundle(
        run.folder / "bundle",
        Bundle(
            network,
            str(model["name"]),
            options,
            preprocess,
            views,
            "multiclass",
            ("cyst", "hcc"),
            Patients.of([]),
        ),
    )
    audit(run)
    split_run(run)
    predict(run)
    return run


def volume(draws: np.random.Generator, place: tuple[int, int, int]) -> tuple[Array, Array]:
    """Noise with a bright cube, and the cube, in (z, y, x)."""
    mask = np.zeros((6, 20, 24), bool)
    mask[tuple(slice(at, at + 3) for at in place)] = True
    return (draws.normal(100, 10, mask.shape) + 80 * mask).astype(np.float32), mask


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two registered phases of five cases; the last lacks one."""
    folder, draws = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    rows = ["case_id,patient_id,label,split,t2,c_late,mask"]
    for number, part in enumerate(SPLITS):
        pixels, mask = volume(draws, (number % 4, 3 + number, 2 * number))
        for name, values in (("t2", pixels), ("late", pixels * 2), ("mask", mask.astype(np.uint8))):
            nib.save(nib.Nifti1Image(values.T, AFFINE), folder / f"{name}{number}.nii.gz")
        late = "" if number == 4 else f"late{number}.nii.gz"
        label = ("cyst", "hcc")[number % 2]
        rows.append(f"c{number},p{number},{label},{part},t2{number}.nii.gz,{late},mask{number}.nii.gz")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    model: dict[str, object] = {"name": "resnet3d10", "width": 0.125}
    run = make_run(folder, ("t2", "c_late"), model, (6, 32, 32))
    explain(run)
    localize(run)
    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A photograph and a smaller ultrasound picture of five cases; boxes lie in the photograph."""
    folder, draws = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    rows, boxes = ["case_id,patient_id,label,split,clinical,ultrasound"], ["case_id,label,x,y,w,h"]
    for number, part in enumerate(SPLITS):
        for name, shape in (("clinical", (40, 60, 3)), ("ultrasound", (32, 32))):
            pixels = draws.integers(0, 255, shape, dtype=np.uint8)
            Picture.fromarray(pixels).save(folder / f"{name}{number}.png")
        label = ("cyst", "hcc")[number % 2]
        rows.append(f"c{number},p{number},{label},{part},clinical{number}.png,ultrasound{number}.png")
        boxes.append(f"c{number},{label},{5 + number},4,20,10")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    model: dict[str, object] = {"name": "late_fusion", "encoder": "resnet10t", "missing": "refuse"}
    run = make_run(folder, ("clinical", "ultrasound"), model, (32, 32), extra=", boxes: boxes.csv")
    explain(run, method="integrated_gradients")
    localize(run)
    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_maps_of_volumes_also_lie_there_as_nifti_in_the_geometry_of_the_volume(volumes: Run) -> None:
    folder = volumes.folder / "heatmaps"
    entries = read_index(folder)
    assert [(entry.case_id, entry.view) for entry in entries if entry.case_id == "c4"] == [("c4", "t2")]
    assert len(entries) == 7, "two views of three cases, and one of the last"
    for entry in entries:
        stored = read_case(folder / entry.file)
        assert stored.values.shape[1:] == (6, 20, 24) and stored.picture.shape == (6, 20, 24)
        for target, values in zip(stored.targets, stored.values, strict=True):
            loaded = nib.load(folder / volume_name(entry.file, target))
            assert loaded.get_data_dtype() == np.float32
            np.testing.assert_array_equal(loaded.get_fdata(dtype=np.float32).T, values)
            np.testing.assert_allclose(loaded.affine, AFFINE)
    files = {path.name for path in folder.iterdir()}
    named = {entry.file for entry in entries} | {
        volume_name(e.file, target) for e in entries for target in e.targets
    }
    assert files == named | {"index.csv", "shares.csv"}


def test_the_mask_of_a_volume_is_the_truth_in_every_registered_phase(volumes: Run) -> None:
    truths = Truths(volumes, volumes.folder / "heatmaps")
    entry = next(e for e in read_index(volumes.folder / "heatmaps") if e.case_id == "c3")
    (marked,) = truths.of(entry)
    assert marked.target == "hcc"
    (box,) = marked.truth.boxes
    assert box.start == (3, 6, 6) and box.stop == (6, 9, 9)


def test_boxes_in_volumes_have_six_numbers_and_are_scored(volumes: Run) -> None:
    found = rows_of(volumes.folder / "boxes.csv")
    assert list(found[0])[3:] == ["x", "y", "z", "w", "h", "d", "score"]
    for row in found:
        entry = next(
            e
            for e in read_index(volumes.folder / "heatmaps")
            if (e.case_id, e.view) == (row["case_id"], row["view"])
        )
        x, y, z, w, h, d = (float(row[name]) for name in ("x", "y", "z", "w", "h", "d"))
        assert min(x, y, z) >= 0 and z + d <= 6 and y + h <= 20 and x + w <= 24
        stored = read_case(volumes.folder / "heatmaps" / entry.file)
        values = stored.values[stored.targets.index(row["target"])]
        inside = values[int(z) : int(z + d), int(y) : int(y + h), int(x) : int(x + w)]
        assert inside.max() > 0
    result = localize(volumes).to_json()
    assert list(result["by_view"]) == ["t2", "c_late"]
    methods = {view: part["methods"] for view, part in result["by_view"].items()}
    assert methods["t2"]["heatmap"]["pointing_game"]["n"] == 2
    assert methods["c_late"]["heatmap"]["pointing_game"]["n"] == 1
    assert result["overall"]["methods"]["heatmap"]["pointing_game"]["n"] == 3


def test_what_can_stand_beside_other_runs_is_kept_by_class(pictures: Run) -> None:
    found = Localization.read(pictures.folder)
    assert found is not None and found.by_class
    for label, own in found.by_class.items():
        pointing = own.methods["heatmap"].pointing_game
        assert (
            pointing is not None and found.comparable[label].figures["pointing_game"].value == pointing.value
        )


def test_shares_lie_beside_the_maps_and_are_those_of_the_views(volumes: Run) -> None:
    shares = read_shares(volumes.folder / "heatmaps")
    chosen = volumes.study.evaluate
    drawn = Bootstrap(chosen.bootstrap, chosen.level, volumes.study.seed, chosen.interval)
    averaged = ViewShares.read(volumes.folder)
    assert averaged is not None and averaged.parts == mean_shares(shares, drawn).parts
    bundle = _bundle(volumes)
    cases = {case.case_id: case for case in volumes.cohort().cases}
    table = read_predictions(volumes.folder / "predictions.csv")
    usual = table.logits[[split == "val" for split in table.splits]].mean(axis=0)
    for case_id in ("c1", "c4"):
        batch = as_batch(bundle, [read_and_prepare(bundle, cases[case_id])])
        options = ShareOptions(empty=torch.from_numpy(usual))
        values = view_shares(bundle.model, batch, [0, 1], options=options)[0]
        own = [share for share in shares if share.case_id == case_id]
        assert {share.view for share in own} == ({"t2", "c_late"} if case_id == "c1" else {"t2"})
        for share in own:
            expected = values[bundle.classes.index(share.target), bundle.views.index(share.view)]
            assert share.value == pytest.approx(float(expected), abs=1e-5)
            assert share.withheld == "missing" and not share.sampled
    for case_id, target in {(share.case_id, share.target) for share in shares}:
        total = sum(s.share for s in shares if (s.case_id, s.target) == (case_id, target))
        assert total == pytest.approx(1, abs=1e-5) or total == 0


def _bundle(run: Run) -> Bundle:
    from foveate.bundle.bundle import load_bundle

    return load_bundle(run.folder / "bundle")


@pytest.mark.slow
def test_boxes_lie_in_the_view_of_their_shape_alone(pictures: Run) -> None:
    folder = pictures.folder / "heatmaps"
    by_view = {
        entry.view: read_case(folder / entry.file) for entry in read_index(folder) if entry.case_id == "c2"
    }
    assert by_view["clinical"].values.shape[1:] == (40, 60)
    assert by_view["ultrasound"].values.shape[1:] == (32, 32)
    (box,) = by_view["clinical"].boxes
    assert (box.start, box.stop, box.label) == ((4, 7), (14, 27), "cyst")
    assert by_view["ultrasound"].boxes == () and by_view["ultrasound"].truth is None
    truths = Truths(pictures, folder)
    found = [item for entry in read_index(folder) if entry.case_id == "c2" for item in truths.of(entry)]
    assert [item.entry.view for item in found] == ["clinical"]
    expected = Region.from_boxes([box], (40, 60))
    np.testing.assert_array_equal(found[0].truth.mask, expected.mask)
    assert list(rows_of(pictures.folder / "boxes.csv")[0])[3:] == ["x", "y", "w", "h", "score"]


@pytest.mark.slow
def test_what_integrated_gradients_miss_lies_beside_them(pictures: Run) -> None:
    entries = read_index(pictures.folder / "heatmaps")
    assert all(len(entry.completeness_gap) == len(entry.targets) for entry in entries)
    bundle = _bundle(pictures)
    case = pictures.cohort().cases[3]
    (found,) = explain_cases(
        bundle, [read_and_prepare(bundle, case)], [["hcc", "cyst"]], explainer="integrated_gradients"
    )
    stored = {
        target: gap
        for entry in entries
        if entry.case_id == case.case_id
        for target, gap in zip(entry.targets, entry.completeness_gap, strict=True)
    }
    for target, gap in stored.items():
        assert gap == pytest.approx(found.gaps[target], rel=1e-2, abs=1e-5)
    gradcam = explain_cases(bundle, [read_and_prepare(bundle, case)], [["hcc"]], explainer="gradcam")
    assert gradcam[0].gaps == {}


def test_black_and_white_are_what_normalization_makes_of_them(pictures: Run) -> None:
    bundle = _bundle(pictures)
    options = explain_options(
        bundle, ExplainConfig(method="integrated_gradients", score="softmax", baseline="black")
    )
    config = bundle.preprocess.config
    for name, value in (("black", 0.0), ("white", 1.0)):
        wanted = [(value - mean) / std for mean, std in zip(config.mean, config.std, strict=True)]
        assert getattr(options, name)["clinical"] == pytest.approx(wanted)
    case = read_and_prepare(bundle, pictures.cohort().cases[3])
    usual, black = (
        explain_cases(bundle, [case], [["hcc"]], explainer="integrated_gradients", options=chosen)[0]
        for chosen in (None, options)
    )
    assert not np.allclose(usual.maps[0].values, black.maps[0].values)
    views = as_batch(bundle, [case])
    dark = {name: torch.tensor(options.black[name]).view(1, 3, 1, 1).expand_as(views[name]) for name in views}
    with torch.no_grad():
        rise = [bundle.model(each).logits.softmax(dim=1)[0, 1] for each in (views, dark)]
    assert abs(black.gaps["hcc"]) < 0.05 * abs(rise[0] - rise[1]) + 1e-4


def test_the_rule_of_the_study_is_the_one_that_explains(pictures: Run) -> None:
    """That of the published code with fewer steps: random pictures, left ends, of the softmax probability."""
    bundle = _bundle(pictures)
    text = "{method: integrated_gradients, score: softmax, baseline: random, ig_rule: left, ig_steps: 4, "
    text += "baselines: 2}"
    path = pictures.folder.parent / "left.yaml"
    path.write_text(f"name: left\ndata: {{manifest: manifest.csv}}\nexplain: {text}\n")
    options = explain_options(bundle, Study.load(path).explain)
    case = read_and_prepare(bundle, pictures.cohort().cases[3])
    views = as_batch(bundle, [case])
    found = explain_batch(bundle.model, views, [1], "integrated_gradients", options=options)
    total = {view: torch.zeros_like(x[:, 0]) for view, x in views.items()}
    starts = [baselines_of(x, view, options, 0) for view, x in views.items()]
    assert [len(each) for each in starts] == [2, 2]
    for start in zip(*starts, strict=True):
        first = dict(zip(views, start, strict=True))
        slopes = {view: torch.zeros_like(x) for view, x in views.items()}
        for step in range(4):  # points 0, 1/4, 2/4, 3/4 of the way
            at = {v: (first[v] + step / 4 * (x - first[v])).requires_grad_() for v, x in views.items()}
            score = bundle.model(at).logits.softmax(dim=1)[0, 1]
            for view, slope in zip(at, torch.autograd.grad(score, list(at.values())), strict=True):
                slopes[view] += slope / 4
        for view, x in views.items():
            total[view] += (slopes[view] * (x - first[view])).sum(dim=1) / 2
    for view, expected in total.items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(found[view][:, 0], expected, rtol=1e-3, atol=1e-4 * scale)


def test_gaps_are_printed_map_by_map_or_summed_up(
    pictures: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = read_index(pictures.folder / "heatmaps")
    terminal.show_completeness(entries)
    lines = capsys.readouterr().out.splitlines()
    gaps = {(entry.case_id, target) for entry in entries for target in entry.targets}
    assert len(lines) == len(gaps) and all(" of c" in line for line in lines)
    monkeypatch.setattr(terminal, "FEW_MAPS", 0)
    terminal.show_completeness(entries)
    assert f"of {len(gaps)} maps: median" in capsys.readouterr().out


def test_models_that_need_every_view_share_by_blank_pictures(pictures: Run) -> None:
    shares = read_shares(pictures.folder / "heatmaps")
    assert {share.withheld for share in shares} == {"blank"}
    assert {share.view for share in shares} == {"clinical", "ultrasound"}


def test_explaining_anew_removes_what_is_stale(volumes: Run) -> None:
    folder = volumes.folder / "heatmaps"
    count = explain(volumes, only=["c4"], method="gradcam")
    assert count == 1
    assert {path.name.split("_")[0] for path in folder.glob("*.npz")} == {"c4"}
    assert {path.name.split("_")[0] for path in folder.glob("*.nii.gz")} == {"c4"}


def test_every_table_holds_the_controls_and_what_the_grid_allows(volumes: Run) -> None:
    found = localize(volumes).to_json()
    methods = found["overall"]["methods"]
    assert list(methods) == ["heatmap", "predicted", "random", "centre", "edge", "average", "ceiling"]
    assert found["left_out"] == {} and found["rule"]["kind"] == "peak"
    stored = read_case(next((volumes.folder / "heatmaps").glob("*.npz")))
    assert stored.grid == (1, 4, 4), "6 slices of 32 × 32 pixels, halved three times"
    # Padded to a square within the slices: 24 columns of 0.8 mm are 27.4 rows of 0.7 mm; rows are turned.
    assert stored.field == Box((0, -4, 0), (6, 23, 24))
    for measure in ("pointing_game", "energy_inside", "iou", "dice", "pixel_ap"):
        best = methods["ceiling"][measure]["value"]
        assert methods["heatmap"][measure]["value"] <= best <= 1
    assert set(found["differences"]) == {"random", "centre", "edge", "average"}
    assert sum(part["n"] for part in found["by_answer"].values()) == found["overall"]["n"]


def test_the_average_of_the_training_masks_is_theirs(volumes: Run) -> None:
    found = training_averages(volumes, quiet)
    assert found.n == 1 and found.by_class == {}, "one training case: too few for an average of its class"
    average = found.of("hcc", 3)
    assert average is not None and average.shape == (16, 64, 64) and found.of("hcc", 2) is None
    mask = np.zeros((6, 20, 24))
    mask[0:3, 3:6, 0:3] = 1
    assert average.mean() == pytest.approx(mask.mean())
    assert average[0, 12, 0] == 1.0 and average[0, 20, 0] == 0.0, "rows 3.75 and 6.25 of the mask"


@pytest.mark.parametrize("rule", ["two_thresholds", "top", "patch"])
def test_other_rules_are_chosen_in_the_study(volumes: Run, tmp_path: Path, rule: RuleKind) -> None:
    folder = Path(shutil.copytree(volumes.folder, tmp_path / "run"))
    settings = volumes.study.localize.model_copy(update={"rule": rule})
    run = Run(folder, volumes.study.model_copy(update={"localize": settings}))
    explain(run, weigh_views=False)
    found = localize(run).to_json()
    assert found["rule"]["kind"] == rule and "no threshold to choose" in found["threshold_chosen_on"]
    assert found["overall"]["methods"]["heatmap"]["max_box_acc"]["value"] is not None
    if rule == "patch":
        sizes = {tuple(float(row[name]) for name in ("w", "h", "d")) for row in rows_of(folder / "boxes.csv")}
        assert len(sizes) == 1, "one cell of the grid"
