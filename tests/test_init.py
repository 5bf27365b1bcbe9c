"""``foveate init``: what it takes for what, and a study that runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from torch import Tensor, nn
from typer.testing import CliRunner

from cohort_files import Row, changed, good, image_folder, write_csv
from foveate.cli.app import app
from foveate.contract import Classifier, InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.models import build_model
from foveate.stations.audit import audit
from foveate.stations.run import Run
from foveate.stations.split import split
from foveate.stations.train import train
from foveate.study.starting import batch_for, epochs_for, volume_size
from foveate.study.study import Study
from foveate.train.tuning.memory import StepMemory, kept_bytes, step_memory


def init(folder: Path, rows: Sequence[Row], *options: str) -> tuple[Study, str]:
    """The study that is written, and what is printed."""
    out = folder / "study.yaml"
    command = ["init", str(write_csv(folder / "m.csv", rows)), "-o", str(out), *options]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    return Study.load(out), " ".join(done.stdout.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path)


def write_volume(path: Path, codes: str, seed: int, shape: tuple[int, int, int] = (8, 40, 32)) -> None:
    """A NIfTI volume of ``(z, y, x)`` sides in the patient, stored along the axes of ``codes``."""
    pixels = np.random.default_rng(seed).integers(0, 200, shape[::-1]).astype(np.int16)
    image = nib.Nifti1Image(pixels, np.diag([1.0, 1.0, 2.0, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    path.parent.mkdir(exist_ok=True)
    nib.save(image.as_reoriented(turn), path)


def volumes(folder: Path, count: int = 10, views: Sequence[str] = ("ct",)) -> list[Row]:
    rows: list[Row] = []
    for number in range(count):
        for view in views:
            codes = ("RAS", "LPS", "ASR", "PIL")[number % 4]
            write_volume(folder / view / f"{number}.nii.gz", codes, 100 * len(view) + number)
        files = {view: f"{view}/{number}.nii.gz" for view in views}
        rows.append(
            {"case_id": f"c{number:02d}", "patient_id": f"p{number:02d}", "label": "xy"[number % 2], **files}
        )
    return rows


class TestTaken:
    def test_a_label(self, folder: Path) -> None:
        rows = [row | {"age": 7, "mask": "", "split": "train"} for row in changed("label", *"xyxx")]
        study, told = init(folder, rows, "--class", "x", "--class", "y")
        assert "4 cases of 4 patients, 2 classes, multiclass" in told
        assert (
            "case: case_id patient: patient_id label: label: x 3, y 1 views (median size): image 64 × 48"
            in told
        )
        assert "also used: mask, split" in told and "metadata, not learned from: age" in told
        assert study.data.classes == ["x", "y"] and study.model.name == "timm:resnet18"

    def test_findings_and_what_is_none(self, folder: Path) -> None:
        rows = [
            {"patient_id": f"p{n}", "image": f"{'abcdef'[n]}.png", "edema": edema, "nodes": nodes, "t2": t2}
            for n, (edema, nodes, t2) in enumerate(
                (("1.0", 0, "d.png"), ("-1.0", 1, ""), ("", 2, "e.png"), ("0.0", 3, "NA"))
            )
        ]
        study, told = init(folder, rows, "--uncertain", "positive", "--model", "late_fusion")
        assert "case: named after its image" in told
        assert "findings (present / absent / unknown): edema 2 / 1 / 1" in told
        assert "t2 is missing in 2" in told
        assert "note: 'nodes' is taken for no finding: it holds '2', '3' beside '0', '1'" in told
        assert "edema (1): '-1.0' taken for uncertain, as positive" in told
        assert study.data.uncertain == "positive" and "missing" not in (folder / "study.yaml").read_text()

    def test_every_rule_reaches_the_study(self, folder: Path) -> None:
        rows = changed("label", "none", "x", "y", "x|y", "P1", "x")
        rows[0]["patient_id"], rows[1]["patient_id"] = "17", "017"
        study, told = init(
            folder, rows, "--separator", "|", "--ids", "as-written", "--missing", "none",
        )  # fmt: skip
        assert (study.data.separator, study.data.ids, study.data.missing) == ("|", "as-written", ["none"])
        assert "P1 1 / 4 / 1 x 3 / 2 / 1 y 2 / 3 / 1" in told
        assert Run.create(study, folder / "run").cohort().classes == ("P1", "x", "y")

    def test_the_audit_notes_what_was_read_by_a_rule(self, folder: Path) -> None:
        study, _ = init(folder, changed("label", "1", "0", "1.0", "0"))
        found = audit(Run.create(study, folder / "run"))
        (note,) = [each for each in found.findings if each.code == "read-by-rule"]
        assert note.severity == "note" and "read '1.0' as '1' (1)" in note.message

    def test_rules_that_exclude_each_other_are_refused(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="give one of the two"):
            init(folder, good(), "--separator", "|", "--one-hot")


class TestRuns:
    def test_volumes_of_four_orientations(self, tmp_path: Path) -> None:
        study, told = init(tmp_path, volumes(tmp_path))
        assert (study.model.name, study.preprocess.size) == ("resnet3d10", (8, 48, 32))
        assert "views (median size): ct 32 × 40 × 8" in told and "GB free here" in told
        assert study.train.batch_size == 4
        run = Run.create(
            Study.model_validate(
                study.model_dump()
                | {
                    "train": study.train.model_dump()
                    | {"epochs": 1, "accelerator": "cpu", "precision": "32", "plan": "off"}
                }
            ),
            tmp_path / "run",
        )
        audit(run).raise_if_stopped()
        split(run)
        assert train(run).epochs == 1

    def test_several_volumes_and_a_network_that_does_not_fit(self, tmp_path: Path) -> None:
        rows = volumes(tmp_path, 4, ("art", "pv"))
        study, _ = init(tmp_path, rows)
        assert (study.model.name, study.preprocess.size) == ("lca_db10", (8, 48, 32))
        with pytest.raises(UsageError, match=r"a case of this manifest is 2 volumes(.|\n)*lca_db10"):
            init(tmp_path, rows, "--model", "timm:test_resnet")

    def test_slices_are_pictures(self, tmp_path: Path) -> None:
        study, _ = init(tmp_path, [row | {"slice": 3} for row in volumes(tmp_path, 4)])
        assert (study.model.name, study.preprocess.size) == ("timm:resnet18", (224, 224))

    def test_two_pictures_get_a_network_of_two(self, folder: Path) -> None:
        study, _ = init(folder, [row | {"t2": row["image"]} for row in good()])
        assert study.model.name == "late_fusion" and study.preprocess.size == (224, 224)


class TestChoices:
    def test_sizes_by_hand(self) -> None:
        assert volume_size({"a": (12, 40, 40)}) == (16, 48, 48)  # 2.5 steps are 3
        assert volume_size({"a": (3, 20, 100)}) == (8, 32, 96)
        assert volume_size({"a": (30, 100, 90), "b": (10, 128, 80)}) == (32, 128, 96)

    @pytest.mark.parametrize("shape", [(40, 512, 512), (300, 512, 512), (160, 192, 160), (5, 2000, 2000)])
    @pytest.mark.parametrize("views", [1, 8])
    def test_large_ones_fit_and_keep_their_thick_slices(
        self, shape: tuple[int, int, int], views: int
    ) -> None:
        size = volume_size({str(number): shape for number in range(views)})
        assert np.prod(size) * views <= 1.3 * min(2**19 * views, 2**21)  # rounding
        assert size[0] % 8 == size[1] % 16 == size[2] % 16 == 0
        assert size[0] >= min(shape[0], 32) - 4 and all(
            own <= was for own, was in zip(size[1:], shape[1:], strict=True)
        )

    def test_epochs_and_batches_by_hand(self) -> None:
        assert [epochs_for(n) for n in (10, 90, 100, 250, 1000, 4000, 9000, 10**6)] == [
            100, 100, 95, 60, 30, 15, 10, 10,
        ]  # fmt: skip
        assert [batch_for(n) for n in (5, 16, 31, 32, 63, 64, 10**6)] == [4, 4, 4, 8, 8, 16, 16]

    def test_the_largest_batch_of_half_the_memory(self) -> None:
        memory = StepMemory(fixed=100, case=50, free=1000)
        assert memory.largest(16) == 8 and memory.of(8) == 500
        assert StepMemory(100, 50, None).largest(16) == 16 and StepMemory(100, 500, 10).largest(16) == 2


class _Pair(Classifier):
    """A convolution, a rectifier and a linear layer, of which is known what they keep."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = InputSpec(views=("image",), dimensions="3", size=(4, 6, 8), channels=1)
        self.num_classes, self.cam_feature = 3, {"image": "last"}
        self.conv, self.norm, self.head = nn.Conv3d(1, 5, 3, padding=1), nn.BatchNorm3d(5), nn.Linear(5, 3)

    def forward(self, views: Views) -> ModelOutput:
        last: Tensor = self.conv(views["image"]).relu()
        return ModelOutput(self.head(self.norm(last).mean((2, 3, 4))), {"last": last}, ())


def test_what_a_step_keeps_is_counted() -> None:
    """By hand: the image, the rectified map (once), the means, and little for the statistics of the norm."""
    voxels = 4 * 6 * 8
    least = 2 * 4 * (voxels + 5 * voxels + 5)  # bytes of two cases in float32
    assert least <= kept_bytes(_Pair()) <= least + 4 * 20


@pytest.mark.parametrize("name, size", [("resnet3d10", (16, 48, 64)), ("lca_db10", (16, 64, 64))])
def test_a_smaller_size_tells_of_the_whole(name: str, size: tuple[int, ...]) -> None:
    def build(spec: InputSpec) -> Classifier:
        return build_model(name, 2, spec)

    spec = InputSpec(views=("a",), dimensions="3", size=size, channels=1)
    found = step_memory(build, spec)
    assert found.case == pytest.approx(kept_bytes(build(spec)), rel=0.15)  # two cases; gradients as large
