"""A study is read as a whole: every problem at once, each with its place and the way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from foveate.errors import UsageError
from foveate.study.study import Study, TrainConfig
from foveate.types import Case, Cohort

SMALL = "name: cells\ndata: {manifest: cells.csv}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        Study.load(write(folder, text))
    return str(caught.value)


def test_a_short_study_has_the_documented_defaults(tmp_path: Path) -> None:
    study = Study.load(write(tmp_path, SMALL))
    assert study.data.manifest == tmp_path / "cells.csv"
    assert (study.model.name, study.model.pretrained) == ("dadrn50", False)
    train = study.train
    assert (train.epochs, train.batch_size, train.optimizer, train.lr) == (60, 16, "adamw", 1e-3)
    assert (train.schedule, train.balance, train.monitor) == ("cosine", "none", "val_loss")
    assert study.augment.rotate_degrees == 15
    assert study.split.test == 0.2


def test_paths_start_from_the_folder_of_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "name: a\ndata: {manifest: ../lists/a.csv, boxes: boxes.csv}\nmodel: {pretrained: weights.pth}\n"
    path = write(tmp_path, text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    study = Study.load(path)
    assert study.data.manifest == tmp_path / ".." / "lists" / "a.csv"
    assert study.data.boxes == tmp_path / "boxes.csv"
    assert study.model.pretrained == str(tmp_path / "weights.pth")
    assert Study.load(write(tmp_path, "name: a\ndata: {manifest: /data/a.csv}\n")).data.manifest == Path(
        "/data/a.csv"
    )


def test_a_study_that_is_written_can_be_moved_with_its_data(tmp_path: Path) -> None:
    data = {"manifest": tmp_path / "lists" / "a.csv", "boxes": Path("/elsewhere/boxes.csv")}
    study = Study.model_validate({"name": "a", "data": data})
    study.write(tmp_path / "study.yaml")
    text = (tmp_path / "study.yaml").read_text()
    assert "lists/a.csv" in text and str(tmp_path) not in text and "/elsewhere/boxes.csv" in text
    assert Study.load(tmp_path / "study.yaml").data == study.data


def test_all_problems_come_at_once_each_with_its_key_path_and_the_closest_key(tmp_path: Path) -> None:
    text = (
        "name: cells\n"
        "data: {manifest: cells.csv, lable: diagnosis}\n"
        "trian: {}\n"
        "train: {lr: -1, epoch: 3, monitor: kappa, devices: many, milestones: [0]}\n"
        "split: {test: 1.5}\n"
    )
    told = problems(tmp_path, text)
    assert told.startswith(f"{tmp_path / 'study.yaml'}: 8 problems in the study")
    assert "data.lable: unknown key; did you mean 'label'?" in told
    assert "trian: unknown key; did you mean 'train'?" in told
    assert "train.epoch: unknown key; did you mean 'epochs'?" in told
    assert "train.lr: Input should be greater than 0 (got -1)" in told
    figures = "'balanced_accuracy', 'accuracy', 'auroc_macro' or 'val_loss'"
    assert f"train.monitor: Input should be {figures} (got 'kappa')" in told
    assert "train.devices: " in told and "train.devices.int" not in told
    assert "train.milestones.0: " in told
    assert "split.test: " in told


def test_a_key_like_no_other_lists_the_known_ones(tmp_path: Path) -> None:
    assert "evaluate.qqq: unknown key; known here: bootstrap, level" in problems(
        tmp_path, SMALL + "evaluate: {qqq: 1}\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: {manifest: a.csv}\n", "name: missing"),
        ("name: a\n", "data: missing"),
        ("name: a/b\ndata: {manifest: a.csv}\n", "name: "),
        (SMALL + "train: {schedule: step}\n", "schedule: step needs milestones"),
        (SMALL + "train: {milestones: [3]}\n", "milestones belong to schedule: step"),
        (SMALL + "train: {warmup_epochs: 60}\n", "must be below epochs (60)"),
        (SMALL + "augment: {scale: [1.2, 0.8]}\n", "scale must rise"),
        (SMALL + "explain: {baseline: black}\n", "baseline does nothing for gradcam, which reads no such"),
        (
            SMALL + "explain: {method: occlusion, ig_rule: left, ig_steps: 20}\n",
            "explain: ig_steps, ig_rule do nothing for occlusion, which reads score, baseline, baselines",
        ),
        (SMALL + "explain: {method: guided_backprop, score: softmax}\n", "score does nothing for guided_ba"),
        (
            SMALL + "explain: {method: integrated_gradients, baseline: black, baselines: 3}\n",
            "baselines does nothing unless the baseline is random, and it is black",
        ),
        (SMALL + "explain: {method: integrated_gradients, ig_steps: 1}\n", "ig_steps: "),
        (SMALL + "explain: {method: integrated_gradients, ig_rule: right}\n", "ig_rule: "),
        (SMALL + "seed: -1\n", "seed: "),
        (SMALL + "seed: 1\nseed: 2\n", "the key 'seed' stands twice"),
        ("name: [\n", "not valid YAML"),
        ("- a\n- b\n", "a study is a YAML mapping"),
        ("", "a study is a YAML mapping"),
    ],
)
def test_what_is_no_study_is_refused_with_its_reason(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in problems(tmp_path, text)


def test_a_missing_file_and_a_binary_file_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Study.load(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match="not valid YAML"):
        Study.load(tmp_path / "binary.yaml")


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    study = Study.load(
        write(tmp_path, "\ufeff" + SMALL + "train: {lr: 1e-4, precision: 32, devices: auto}\n")
    )
    assert study.train.lr == 1e-4
    assert study.train.precision == "32"
    assert study.train.devices == "auto"


def test_dump_and_load_give_the_same_study(tmp_path: Path) -> None:
    chosen = "train: {schedule: step, milestones: [30, 45]}\nmodel: {options: {width: 0.25}}\n"
    chosen += "explain: {method: integrated_gradients, score: softmax, baseline: random, ig_rule: left}\n"
    study = Study.load(write(tmp_path, SMALL + chosen))
    (tmp_path / "run").mkdir()
    again = Study.load(write(tmp_path / "run", study.dump()))
    assert again == study
    assert "warmup_epochs" in study.dump()  # defaults are spelt out


def test_write_keeps_only_what_was_chosen(tmp_path: Path) -> None:
    cohort = Cohort((Case("a", "a", {}),), "multilabel", ("x", "y"), ("image",), tmp_path / "m.csv", "0" * 64)
    data = {"manifest": tmp_path / "m.csv", "label": None, "patient": "subject"}
    study = Study.for_cohort(cohort, name="chests", data=data, model="timm:resnet18")
    study.write(tmp_path / "chests.yaml")
    text = (tmp_path / "chests.yaml").read_text()
    assert len(text.splitlines()) <= 40
    assert "momentum" not in text and "label" not in text
    assert Study.load(tmp_path / "chests.yaml") == study
    assert study.train.monitor == "val_loss"


def test_with_manifest_changes_data_and_seeds_alone(tmp_path: Path) -> None:
    study = Study.load(write(tmp_path, SMALL + "train: {epochs: 7}\n"))
    other = study.with_manifest(tmp_path / "other.csv", seed=5)
    assert (other.data.manifest, other.seed, other.split.seed) == (tmp_path / "other.csv", 5, 5)
    assert other.train == study.train == TrainConfig(epochs=7)


def test_reading_a_study_loads_neither_torch_nor_lightning() -> None:
    heavy = "('torch', 'lightning', 'monai', 'pandas', 'matplotlib')"
    code = f"import sys, foveate.study.study; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_turns_volumes_needs_volumes(tmp_path: Path) -> None:
    for augment in ("{tilt_degrees: 5}", "{flip: [depth]}"):
        assert "are for volumes" in problems(tmp_path, SMALL + f"augment: {augment}\n")
        Study.load(write(tmp_path, SMALL + f"augment: {augment}\npreprocess: {{size: [4, 8, 8]}}\n"))


def test_a_key_of_one_view_is_found_with_its_view(tmp_path: Path) -> None:
    text = (
        "name: a\ndata: {manifest: m.csv}\npreprocess: {views: {ct: {windw: [0, 1]}, t2: {window: [2, 1]}}}\n"
    )
    told = problems(tmp_path, text)
    assert "preprocess.views.ct.windw: unknown key; did you mean 'window'?" in told
    (tmp_path / "study.yaml").write_text(text.replace("windw: [0, 1]", "window: [0, 1]"))
    with pytest.raises(UsageError, match=r"view 't2': .*window must rise"):
        Study.load(tmp_path / "study.yaml")


def test_default_augmentation_is_milder_in_short_trainings_and_choices_stay(tmp_path: Path) -> None:
    def loaded(extra: str) -> Study:
        return Study.load(write(tmp_path, SMALL + extra))

    mild = loaded("train: {epochs: 6}\n").augment
    assert (mild.rotate_degrees, mild.translate, mild.scale) == (3, 0.01, (0.98, 1.02))
    assert (mild.brightness, mild.contrast) == (0.01, 0.01)
    assert loaded("train: {epochs: 30}\n").augment == loaded("train: {epochs: 300}\n").augment
    assert loaded("").augment.scale == (0.9, 1.1)
    chosen = loaded("train: {epochs: 6}\naugment: {rotate_degrees: 15, flip: [horizontal]}\n")
    assert (chosen.augment.rotate_degrees, chosen.augment.flip) == (15, ("horizontal",))
    assert chosen.augment.translate == 0.01
    # The run folder's study has all values; an editable one what was chosen, so that it follows its epochs.
    assert "rotate_degrees: 3" in loaded("train: {epochs: 6}\n").dump()
    assert Study.load(write(tmp_path, chosen.dump())) == chosen
    chosen.write(tmp_path / "editable.yaml")
    assert "translate" not in (tmp_path / "editable.yaml").read_text()
