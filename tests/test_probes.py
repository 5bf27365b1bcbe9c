"""Probes for shortcuts: on networks whose answers are known by hand, and regions worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from sklearn.metrics import roc_auc_score
from torch import Tensor

from foveate.bundle import bundle as bundles
from foveate.bundle.bundle import Bundle, Patients
from foveate.contract import Classifier, InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.results.splits import Splits
from foveate.prepare.preprocess import Preprocess
from foveate.stations import probe as probes
from foveate.stations.run import Run
from foveate.stations.shortcuts.attribution import border
from foveate.stations.shortcuts.exchange import (
    ExchangedRegion,
    choose_donors,
    exchanged,
    log_odds,
    measure,
    screen,
)
from foveate.stations.shortcuts.material import Places, ProbeMaterial
from foveate.stations.shortcuts.regions import (
    Tiles,
    clear_frame,
    filled,
    frame,
    outside_organ,
    position,
    strokes,
    suspects,
)
from foveate.study.settings import PreprocessConfig, SplitConfig
from foveate.study.study import Study
from foveate.types import quiet

SIDE = 32
CORNER, MIDDLE = (slice(0, 4), slice(28, 32)), (slice(12, 20), slice(12, 20))


class ReadsPatch(Classifier):
    """Says "ill" in proportion to the mean of one patch: what it uses is known by hand."""

    def __init__(self, patch: tuple[slice, slice]) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(SIDE, SIDE))
        self.num_classes = 2
        self.cam_feature = {}
        self.patch = patch
        self.scale = torch.nn.Parameter(torch.tensor(6.0))

    def forward(self, views: Views) -> ModelOutput:
        seen: Tensor = views["image"][(..., *self.patch)].mean(dim=(1, 2, 3)) * self.scale
        return ModelOutput(torch.stack([-seen, seen], dim=1))


def bundle_of(patch: tuple[slice, slice]) -> Bundle:
    plain = PreprocessConfig(size=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(1, 1, 1))
    return Bundle(
        model=ReadsPatch(patch).eval(),
        model_name="patch",
        model_options={},
        preprocess=Preprocess(plain),
        views=("image",),
        task="multiclass",
        classes=("healthy", "ill"),
        patients=Patients.of([]),
    )


def write_cases(folder: Path, *, marker: bool, count: int = 120, seed: int = 5) -> Path:
    """Cases whose middle is bright if ill; with a marker, so is the corner at the top right."""
    draws, rows = np.random.default_rng(seed), []
    for number in range(count):
        ill = number % 2
        grey = draws.normal(100, 12, (SIDE, SIDE))
        grey[MIDDLE] += 40 * ill + draws.normal(0, 15)
        if marker:
            grey[CORNER] += 90 * ill
        Pillow.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
        rows.append(
            f"{number:03d},p{number:03d},{('healthy', 'ill')[ill]},{number:03d}.png,{draws.integers(90)}"
        )
    (folder / "manifest.csv").write_text("\n".join(["case_id,patient_id,label,image,age", *rows]))
    return folder / "manifest.csv"


def run_of(folder: Path, manifest: Path) -> Run:
    study = Study.model_validate(
        {
            "name": "probe",
            "data": {"manifest": manifest},
            "preprocess": {"size": (SIDE, SIDE)},
            "model": {"name": "timm:test_resnet"},
            "evaluate": {"bootstrap": 100},
            "probe": {"tiles": 8},
        }
    )
    run = Run.create(study, folder / "run")
    cases = [case.case_id for case in run.cohort().cases]
    parts = {name: ("train", "val", "test")[min(place // 40, 2)] for place, name in enumerate(cases)}
    Splits(manifest_sha256="0" * 64, config=SplitConfig(), folds=(parts,)).write(run.folder)
    (run.folder / "bundle").mkdir()
    return run


@pytest.fixture
def probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The network that reads the corner, on a cohort with a marker there."""
    monkeypatch.setattr(bundles, "load_bundle", lambda _: bundle_of(CORNER))
    run = run_of(tmp_path, write_cases(tmp_path, marker=True))
    found = probes.probe(run).to_json()
    assert json.loads((run.folder / "probes.json").read_text()) == found
    return found


class TestHandMadeNetworks:
    def test_what_reads_the_marker_is_named(self, probed: dict[str, Any]) -> None:
        (shortcut,) = probed["shortcuts"]
        assert shortcut["kind"] in ("marker", "region")
        assert shortcut["where"] == {
            "view": "image",
            "box": [0.0, 0.875, 0.125, 1.0],
            "position": "top right",
        }
        assert (
            shortcut["effect"] == pytest.approx(1.0, abs=0.02) and shortcut["interval"][0] > 0.75
        )  # 20 against 20
        assert "at the top right" in shortcut["sentence"] and shortcut["sentence"] == probed["sentences"][0]

    def test_removal_and_pasting(self, probed: dict[str, Any]) -> None:
        regions = {row["name"]: row["by_class"]["ill"] for row in probed["views"]["image"]["regions"]}
        tile = regions["tiles"]
        assert tile["original"]["value"] == tile["same"]["value"] == 1.0
        assert tile["other"]["value"] == pytest.approx(0.0, abs=0.02)  # the answer follows the corner
        assert tile["removed"]["value"] == pytest.approx(0.5, abs=0.25)
        assert tile["gained"]["value"] > 0.3 and tile["lost"]["value"] < -0.1
        assert regions["border"]["effect"]["value"] == pytest.approx(tile["effect"]["value"], abs=0.02)

    def test_the_background_tells_and_the_metadata_do_not(self, probed: dict[str, Any]) -> None:
        assert probed["views"]["image"]["background"]["auroc_macro"]["value"] > 0.95
        assert [leak["kind"] for leak in probed["leaks"]] == ["background"]
        assert probed["metadata"]["columns"] == ["age"] and probed["metadata"]["telling"] == []

    def test_what_reads_the_middle_is_not_accused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bundles, "load_bundle", lambda _: bundle_of(MIDDLE))
        found = probes.probe(run_of(tmp_path, write_cases(tmp_path, marker=True))).to_json()
        assert found["shortcuts"] == [] and found["sentences"][0].startswith("No shortcut was found")
        moved = np.array(found["views"]["image"]["tiles"]["moved"])
        assert np.unravel_index(moved.argmax(), moved.shape) in [(3, 3), (3, 4), (4, 3), (4, 4)]
        assert [leak["kind"] for leak in found["leaks"]] == ["background"]  # there to be learned all the same

    @pytest.mark.slow
    def test_a_clean_cohort(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundles, "load_bundle", lambda _: bundle_of(MIDDLE))
        found = probes.probe(run_of(tmp_path, write_cases(tmp_path, marker=False))).to_json()
        assert found["shortcuts"] == [] and found["leaks"] == []

    @pytest.mark.slow
    def test_a_region_that_the_user_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundles, "load_bundle", lambda _: bundle_of(CORNER))
        run = run_of(tmp_path, write_cases(tmp_path, marker=True))
        names = [case.case_id for case in run.cohort().cases]
        boxes = tmp_path / "rulers.csv"
        boxes.write_text("\n".join(["case_id,label,x,y,w,h", *(f"{name},ruler,28,0,4,4" for name in names)]))
        found = probes.probe(run, named={"ruler": boxes}).to_json()
        assert {item["kind"] for item in found["shortcuts"]} >= {"ruler"}
        empty = tmp_path / "nothing.csv"
        empty.write_text("case_id,label,x,y,w,h\n000,ruler,28,0,4,4\n")
        found = probes.probe(run, named={"ruler": empty}).to_json()
        assert "image: ruler, as there is none in these cases" in found["not_tested"]

    def test_a_part_without_cases(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundles, "load_bundle", lambda _: bundle_of(CORNER))
        run = run_of(tmp_path, write_cases(tmp_path, marker=True))
        with pytest.raises(UsageError, match="no case of 'holdout'"):
            probes.probe(run, "holdout")


def material(count: int = 24, classes: int = 2, seed: int = 0) -> ProbeMaterial:
    draws = torch.Generator().manual_seed(seed)
    images = torch.rand((count, 1, SIDE, SIDE), generator=draws).half()
    truth = np.eye(classes)[np.arange(count) % classes]
    found = ProbeMaterial(bundle_of(CORNER), (), {"image": images}, truth, ())
    return found


class TestDonors:
    def test_multiclass(self) -> None:
        truth, patients = np.eye(3)[np.arange(30) % 3], [f"p{n // 2}" for n in range(30)]
        donors = choose_donors(truth, patients, seed=1)
        for row in range(30):
            assert (truth[donors.same[row]] == truth[row]).all()
            assert not (truth[donors.other[row]] == truth[row]).all()
            assert patients[row] not in (patients[donors.same[row]], patients[donors.other[row]])

    def test_nobody_else(self) -> None:
        donors = choose_donors(np.array([[1.0, 0], [0, 1], [0, 1]]), ["a", "b", "b"])
        assert donors.same.tolist() == [0, 1, 2]  # no other patient of the class
        assert donors.other[0] in (1, 2) and donors.other[1:].tolist() == [0, 0]

    def test_multilabel_takes_the_nearest_and_the_farthest(self) -> None:
        rows = [[1, 0, 0], [1, 0, 0], [0, 1, 1], [1, np.nan, 0], [0, 0, 0], [0, 0, 0], [0, 1, 1]]
        donors = choose_donors(np.array(rows, dtype=float), list("abcdefg"))
        assert donors.same[0] in (1, 3) and donors.other[0] in (2, 6)
        assert donors.same[4] == 5


class TestExchange:
    def test_only_the_region_changes(self) -> None:
        cases = material()
        tiles = Tiles.over((SIDE, SIDE), 8)
        region = ExchangedRegion("tile", "image", tiles.mask((0, 7)))
        donors = np.roll(np.arange(24), 1)
        found = exchanged(cases.views["image"], region, donors).numpy()
        slow = cases.views["image"].numpy().copy()
        for row in range(24):
            slow[row, :, 0:4, 28:32] = cases.views["image"].numpy()[donors[row], :, 0:4, 28:32]
        np.testing.assert_array_equal(found, slow)

    def test_own_both_and_either(self) -> None:
        masks = torch.zeros(2, 4, 4, dtype=torch.bool)
        masks[0, 0, 0], masks[0, 0, 1], masks[1, 0, 1], masks[1, 0, 2] = True, True, True, True
        donors = np.array([1, 0])
        counts = {
            take: ExchangedRegion("x", "image", masks, take=take).between(donors)[0].nonzero()[:, 1].tolist()  # type: ignore[arg-type]
            for take in ("own", "both", "either")
        }
        assert counts == {"own": [0, 1], "both": [1], "either": [0, 1, 2]}

    def test_figures_are_those_of_sklearn(self) -> None:
        cases = material(count=40)
        cases.views["image"][1::2, :, 0:4, 28:32] += 0.2
        cases = ProbeMaterial(
            cases.bundle, tuple(_item(n) for n in range(40)), cases.views, cases.truth, ({},) * 40
        )
        tiles, logits = Tiles.over((SIDE, SIDE), 8), cases.logits()
        donors = choose_donors(cases.truth, cases.patients)
        region = ExchangedRegion("tile", "image", tiles.mask((0, 7)))
        effect = measure(cases, region, logits, donors, Bootstrap(200), remove=True)
        means = cases.views["image"].float().numpy()[:, 0, 0:4, 28:32].mean(axis=(1, 2))
        ill = cases.truth[:, 1]
        expected = {
            "original": roc_auc_score(ill, means),
            "same": roc_auc_score(ill, means[donors.same]),
            "other": roc_auc_score(ill, means[donors.other]),
        }
        for name, value in expected.items():
            assert effect.by_class["ill"][name].value == pytest.approx(value)
        assert effect.values["effect"].value == pytest.approx(expected["same"] - expected["other"])
        odds = 2 * 6 * (means - 0.5)
        said = 1 / (1 + np.exp(-odds))
        gets = (ill == 0) & (ill[donors.other] == 1)
        assert effect.by_class["ill"]["gained"].value == pytest.approx(
            (said[donors.other] - said)[gets].mean(), abs=1e-3
        )
        assert effect.p["ill"] == pytest.approx(1 / 201)
        moved = screen(cases, "image", tiles, logits, donors, quiet)
        assert np.unravel_index(moved[..., 1].argmax(), (8, 8)) == (0, 7)
        assert np.delete(moved[..., 1].ravel(), 7).max() == 0

    def test_log_odds(self) -> None:
        logits = np.random.default_rng(0).normal(size=(5, 3))
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(log_odds(logits, "multiclass"), np.log(shares / (1 - shares)))
        assert log_odds(logits, "multilabel") is logits


def _item(number: int) -> object:
    from foveate.predict import PreparedCase
    from foveate.types import Case

    return PreparedCase(Case(f"c{number}", f"p{number}", {}), {"image": None}, np.zeros(2))  # type: ignore[dict-item]


class TestRegions:
    def test_tiles_cover_everything_once(self) -> None:
        tiles = Tiles.over((48, 64), 8)
        assert tiles.shape == (6, 8)
        whole = sum(tiles.mask(place).int() for place in tiles.places)
        assert (torch.as_tensor(whole) == 1).all()
        assert tiles.box((0, 7)) == (0, 7 / 8, 1 / 6, 1)
        assert position(tiles.box((0, 7))) == "top right" and position(tiles.box((3, 4))) == "middle"

    def test_volumes_have_tiles_through_all_slices(self) -> None:
        tiles = Tiles.over((5, 16, 16), 4)
        images = torch.rand(2, 1, 5, 16, 16)
        found = exchanged(images, ExchangedRegion("tile", "image", tiles.mask((0, 0))), np.array([1, 0]))
        assert (found[0, 0, :, :4, :4] == images[1, 0, :, :4, :4]).all()
        assert (found[0, 0, :, 4:] == images[0, 0, :, 4:]).all()
        mask = torch.zeros(2, 5, 16, 16, dtype=torch.bool)
        mask[:, 0, :4, :4] = True
        assert tiles.covered(mask)[0, 0, 0] == pytest.approx(1 / 5)

    def test_the_frame_follows_the_image_and_not_the_padding(self) -> None:
        tiles, field = Tiles.over((32, 32), 8), torch.zeros(1, 32, 32, dtype=torch.bool)
        field[0, 8:24] = True
        found = frame(tiles, field)[0]
        assert int(found.sum()) == 16 * 32 - 8 * 24
        assert found[8, 16] and not found[0, 16] and not found[16, 16]

    def test_suspects(self) -> None:
        tiles, field = Tiles.over((32, 32), 8), torch.ones(2, 32, 32, dtype=torch.bool)
        ring = np.ones((8, 8), dtype=bool)
        ring[1:-1, 1:-1] = False
        np.testing.assert_array_equal(suspects(tiles, Places(field, None, None)), ring)
        organ = torch.zeros(2, 32, 32, dtype=torch.bool)
        organ[0, :, :16] = True
        found = suspects(tiles, Places(field, organ, None))
        assert found[:, 4:].all() and not found[:, :4].any()  # of the case whose organ is known
        truth = torch.zeros(2, 32, 32, dtype=torch.bool)
        truth[:, :4, 28:] = True
        assert not suspects(tiles, Places(field, organ, truth))[0, 7]

    def test_lesions_are_taken_out_of_border_and_outside(self) -> None:
        tiles, field = Tiles.over((32, 32), 8), torch.ones(2, 32, 32, dtype=torch.bool)
        organ, truth = torch.zeros_like(field), torch.zeros_like(field)
        organ[0, :, :16], truth[0, :2, 20:24] = True, True
        edge, outside = (
            clear_frame(tiles, Places(field, organ, truth)),
            outside_organ(Places(field, organ, truth)),
        )
        assert outside is not None and int(outside[0].sum()) == 16 * 32 - 8 and not outside[1].any()
        assert int(edge[0].sum()) == (32 * 32 - 24 * 24) // 2 - 8
        assert int(clear_frame(tiles, Places(field, None, None))[0].sum()) == 32 * 32 - 24 * 24

    def test_border_of_an_original_image(self) -> None:
        found = border((3, 40, 80), 8)
        assert found.shape == (3, 40, 80) and (~found).sum() == 3 * 20 * 60

    def test_filling_takes_what_is_around(self) -> None:
        ramp = torch.linspace(0.2, 0.8, 64).expand(1, 1, 64, 64).clone()
        marked = ramp.clone()
        marked[..., 2:8, 50:56] = 1.0
        mask = torch.zeros(1, 64, 64, dtype=torch.bool)
        mask[0, 2:8, 50:56] = True
        found = filled(marked, mask)
        assert (found[~mask[:, None]] == marked[~mask[:, None]]).all()
        assert (found - ramp)[mask[:, None]].abs().max() < 0.06
        everything = filled(marked, torch.ones(1, 64, 64, dtype=torch.bool))
        assert torch.isfinite(everything).all()

    def test_strokes_are_letters_and_not_shadows(self) -> None:
        smooth = torch.linspace(0, 1, 64).expand(3, 1, 64, 64).clone()
        smooth[1, :, 4:12, 20] = 1.0
        smooth[1, :, 4, 20:26] = 1.0
        smooth[2, :, 30:60, 10:50] = 1.0  # a large bright block
        found = strokes(smooth, torch.ones(3, 64, 64, dtype=torch.bool))
        assert found.flatten(1).any(dim=1).tolist() == [False, True, False]
        assert found[1, 6, 20] and not found[1, 40, 40]
