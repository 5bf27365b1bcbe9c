"""Every shipped study and grid: short, valid, and each of its models can be built for its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.compare.grid import GridPlan
from foveate.compare.unbuilt import build_untrained
from foveate.data.sources.lld_mmri import CLASSES
from foveate.explain.explainers import EXPLAINERS
from foveate.study.study import Study

FOLDER = Path(__file__).parents[1] / "src" / "foveate" / "studies"
STUDIES = sorted(FOLDER.glob("*.yaml"))
GRIDS = sorted((FOLDER / "grids").glob("*.yaml"))
PHANTOMS = {  # folder of the manifest → plain network to compare with
    "phantom": "timm:resnet18",
    "phantom-liver-mri": "resnet3d18",
    "phantom-paired": "late_fusion",
    "phantom-chest": "timm:resnet18",
    "phantom-cells": "timm:resnet18",
}
# What the papers compare (specifications §1.8, §2.7, §3.3, §4.3, §5.3), and how many rows that is.
ROWS = {"lca_db": 13, "dadrn": 7, "agf": 9, "can": 7, "cervical": 7}
ORIGINAL = "lca_db_lld_mmri lca_db_lld_mmri_paper lca_db_lld_mmri_malignancy dadrn_liver_ct agf_pairs "
ORIGINAL += "can_chestxray14 cervical_sipakmed "
ORIGINAL += "cervical_multicell cervical_masked cervical_herlev"
DRAWN = "lca_db_phantom ct_phantom_dadrn agf_phantom can_phantom cervical_phantom"


def size(study: Study) -> int:
    """Parameters of the model of a study, built as its data would ask for."""
    model = build_untrained(study, tuple(study.data.views or ("image",)), len(study.data.findings or "12345"))
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_short_and_its_model_can_be_built(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40
    study = Study.load(path)
    assert study.name == path.stem
    assert size(study) > 10_000
    assert study.explain.method in EXPLAINERS


@pytest.mark.slow
@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_model_of_a_grid_can_be_built(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40
    plan = GridPlan.of_grid(path)
    assert plan.name == path.stem
    assert len(plan.variants) == ROWS.get(path.stem, len(plan.variants))
    for study in plan.variants.values():
        assert size(study) > 10_000
    for label, study in plan.variants.items():
        views = set(study.data.views or ("image",))
        assert views <= set(plan.base.data.views or ("image",)), label
        assert all(line.startswith("data.views: ") for line in plan.changes(label)), (
            label
        )  # nothing but the model


@pytest.mark.parametrize(
    "path", [path for path in GRIDS if "phantom" in path.stem], ids=lambda path: path.stem
)
def test_phantom_grids_are_small_and_compare_with_a_plain_network(path: Path) -> None:
    plan = GridPlan.of_grid(path)
    assert plan.reference == "plain"
    study = plan.base
    assert tuple(study.preprocess.size) in ((96, 96), (16, 48, 48)) and study.train.epochs <= 24
    assert study.model.name == PHANTOMS[study.data.manifest.parent.name]


def test_every_system_has_a_study_for_its_data_and_one_for_its_phantom_and_two_grids() -> None:
    names = {path.stem for path in STUDIES}
    assert names == {*ORIGINAL.split(), *DRAWN.split()}
    assert {path.stem for path in GRIDS} == {name + end for name in ROWS for end in ("", "_phantom")}


def test_profiles_of_lca_db_differ_where_the_published_code_has_a_quirk() -> None:
    paper, ours = (Study.load(FOLDER / f"lca_db_lld_mmri{end}.yaml") for end in ("_paper", ""))
    assert paper.model.options["variant"] == "paper" and ours.model.options["variant"] == "corrected"
    assert (paper.preprocess.resize, ours.preprocess.resize) == ("area", "linear")
    assert (paper.augment.tilt_degrees, paper.augment.rotate_degrees) == (10, 0)
    assert (ours.augment.tilt_degrees, ours.augment.rotate_degrees) == (0, 10)
    assert paper.augment.flip_together and not ours.augment.flip_together
    assert paper.data.views is not None and ours.data.views is not None
    assert paper.data.views[:6] == ours.data.views[:6] and paper.data.views[6:] == ours.data.views[:5:-1]
    second = Study.load(FOLDER / "lca_db_lld_mmri_malignancy.yaml")
    assert second.preprocess == ours.preprocess and second.augment == ours.augment
    assert second.train == ours.train and second.split == ours.split == paper.split
    assert second.model.options == ours.model.options | {"loss": "study"}
    assert paper.data.classes == list(CLASSES) and paper.split.rounds == 5
    for study in (paper, ours):
        assert (study.train.lr, study.train.weight_decay, study.train.batch_size) == (1e-4, 0, 8)
        assert study.preprocess.size == (16, 128, 128) and study.augment.probability == 0.3
        assert study.model.options["epochs"] == study.train.epochs == 100


def test_the_cervical_study_has_the_published_shares() -> None:
    """7:2:1 of cells (specification §5.1); ``val`` is a share of what is not for testing."""
    split = Study.load(FOLDER / "cervical_sipakmed.yaml").split
    shares = ((1 - split.test) * (1 - split.val), (1 - split.test) * split.val, split.test)
    assert shares == pytest.approx((0.7, 0.2, 0.1), abs=1e-3)


def test_every_row_of_dadrn_that_can_starts_from_imagenet_weights() -> None:
    variants = GridPlan.of_grid(FOLDER / "grids" / "dadrn.yaml").variants
    assert {label for label, study in variants.items() if not study.model.pretrained} == {"RAResnet50"}
