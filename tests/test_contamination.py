"""A test set against what a model learned from: patients, the same pixels, nearly the same pixels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cohort_files import Row, picture, write_csv, write_image
from foveate.bundle.bundle import load_bundle, save_bundle
from foveate.data.images import read_images
from foveate.errors import AuditStopped
from foveate.evaluate.results.audit import Audit
from foveate.stations.audit import audit as audit_run
from foveate.stations.contamination import audit_against
from foveate.stations.run import Run
from foveate.stations.split import split
from foveate.stations.train import train
from foveate.study.study import Study


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one epoch on 40 pictures of as many patients."""
    folder = tmp_path_factory.mktemp("trained")
    rows: list[Row] = []
    for number in range(40):
        write_image(folder / f"c{number:02d}.png", picture(number))
        rows.append(row(f"c{number:02d}", f"p{number:02d}", "xy"[number % 2]))
    study = Study.model_validate(
        {
            "name": "tiny",
            "data": {"manifest": write_csv(folder / "manifest.csv", rows)},
            "preprocess": {"size": (32, 32)},
            "model": {"name": "timm:test_resnet"},
            "train": {"epochs": 1, "accelerator": "cpu", "precision": "32", "monitor": "val_loss"},
        }
    )
    made = Run.create(study, folder / "run")
    audit_run(made)
    split(made)
    train(made)
    return made


def row(name: str, patient: str, label: str = "x") -> Row:
    return {"case_id": name, "patient_id": patient, "label": label, "image": f"{name}.png"}


def codes(audit: Audit) -> dict[str, tuple[str, ...]]:
    kept = ("training-patients", "training-images", "training-images-unknown")
    return {finding.code: finding.case_ids for finding in audit.findings if finding.code in kept}


def new_set(folder: Path, learned: str) -> Path:
    """A known patient, a known image, a known image paler, and strangers."""
    source = picture(int(learned[1:]))
    pictures = {
        "same-patient": picture(901),
        "same-image": source,
        "paler": (source * 0.7 + 30).astype(np.uint8),
        **{f"new{number}": picture(700 + number) for number in range(20)},
    }
    rows = []
    for number, (name, pixels) in enumerate(pictures.items()):
        write_image(folder / f"{name}.png", pixels)
        patient = learned.replace("c", "p") if name == "same-patient" else f"q{number}"
        rows.append(row(name, patient, "xy"[number % 2]))
    return write_csv(folder / "new.csv", rows)


def learned_case(run: Run) -> str:
    parts = json.loads((run.folder / "splits.json").read_text())["folds"][0]
    return next(name for name, part in parts.items() if part == "train")


def test_a_known_patient_is_known_under_another_spelling(run: Run, tmp_path: Path) -> None:
    """By hand: p07 is P-7 and P 007, and neither p70 nor p0-7."""
    number = int(learned_case(run)[1:])
    names = [f"P-{number}", f"P {number:03d}", f"p{number}0", f"p0-{number}x"]
    rows = []
    for place, name in enumerate(names):
        write_image(tmp_path / f"n{place}.png", picture(800 + place))
        rows.append(row(f"n{place}", name, "xy"[place % 2]))
    rows[1]["patient_id"] = names[0]  # two spellings in one table are refused by themselves
    (found,) = [
        each
        for each in audit_against(run.folder, write_csv(tmp_path / "new.csv", rows)).findings
        if each.code == "training-patients"
    ]
    assert found.case_ids == ("n0", "n1") and f"(spelt otherwise there: {names[0]})" in found.message


class TestContamination:
    @pytest.mark.slow
    def test_what_the_model_learned_from_is_found(self, run: Run, tmp_path: Path) -> None:
        audit = audit_against(run.folder, new_set(tmp_path, learned_case(run)))
        assert codes(audit) == {
            "training-patients": ("same-patient",),
            "training-images": ("same-image", "paler"),
        }
        with pytest.raises(AuditStopped, match="--allow training-images"):
            audit.raise_if_stopped()
        accepted = audit_against(
            run.folder,
            tmp_path / "new.csv",
            allow=["training-patients", "training-images", "conflicting-labels"],
        )
        accepted.raise_if_stopped()

    def test_a_bundle_alone_knows_patients_copies_and_near_copies(self, run: Run, tmp_path: Path) -> None:
        name = learned_case(run)
        audit = audit_against(run.folder / "bundle", new_set(tmp_path, name))
        found = codes(audit)
        assert found == {
            "training-patients": ("same-patient",),
            "training-images": ("same-image", "paler"),
        }
        told = {finding.code: finding.message for finding in audit.findings}["training-images"]
        assert "2 of these 23 cases" in told and name not in told  # a bundle has no names
        named = audit_against(run.folder, tmp_path / "new.csv")  # its run has
        told = {finding.code: finding.message for finding in named.findings}["training-images"]
        assert f"same-image (the same pixels as {name})" in told and f"paler (nearly {name})" in told

    def test_a_bundle_without_looks_knows_copies_only(self, run: Run, tmp_path: Path) -> None:
        shutil.copytree(run.folder, tmp_path / "run")
        (tmp_path / "run" / "bundle" / "looks.safetensors").unlink()
        alone = codes(audit_against(tmp_path / "run" / "bundle", new_set(tmp_path, learned_case(run))))
        assert alone["training-images"] == ("same-image",) and "training-images-unknown" in alone
        with_files = codes(audit_against(tmp_path / "run", tmp_path / "new.csv"))  # which its run can read
        assert with_files["training-images"] == ("same-image", "paler")
        assert "training-images-unknown" not in with_files

    def test_strangers_are_fine(self, run: Run, tmp_path: Path) -> None:
        rows = []
        for number in range(12):
            write_image(tmp_path / f"n{number}.png", picture(500 + number))
            rows.append(row(f"n{number}", f"r{number}", "xy"[number % 2]))
        assert codes(audit_against(run.folder, write_csv(tmp_path / "new.csv", rows))) == {}

    def test_test_cases_of_the_run_are_not_learned_from(self, run: Run) -> None:
        parts = json.loads((run.folder / "splits.json").read_text())["folds"][0]
        found = codes(audit_against(run.folder, run.study.data.manifest))
        learned = {name for name, part in parts.items() if part != "test"}
        assert set(found["training-images"]) == set(found["training-patients"]) == learned

    def test_an_older_bundle_says_what_it_does_not_know(self, run: Run, tmp_path: Path) -> None:
        save_bundle(tmp_path / "old", load_bundle(run.folder))  # without fingerprints, as they once were
        found = codes(audit_against(tmp_path / "old", new_set(tmp_path, learned_case(run))))
        assert set(found) == {"training-patients", "training-images-unknown"}

    def test_nobody_can_be_read_from_the_bundle(self, run: Run) -> None:
        facts = json.loads((run.folder / "bundle" / "bundle.json").read_text())
        digests = {key: row.digest for key, row in read_images(run.folder).items()}
        parts = json.loads((run.folder / "splits.json").read_text())["folds"][0]
        learned = [name.replace("c", "p") for name, part in parts.items() if part != "test"]
        assert len(digests) == 40 and len(facts["fingerprints"]["hashes"]) == len(learned)
        names = {*learned, *(name.replace("p0", "p") for name in learned)}  # as written, and spelt otherwise
        assert len(facts["patients"]["hashes"]) == len(names)
        assert not set(digests.values()) & set(facts["fingerprints"]["hashes"])
        again = load_bundle(run.folder)
        assert again.images is not None
        assert len(again.images.numbers(digests.values())) == len(again.images.hashes)

    def test_the_audit_can_be_written(self, run: Run, tmp_path: Path) -> None:
        audit = audit_against(run.folder, new_set(tmp_path, learned_case(run)))
        audit.write(tmp_path)
        back = Audit.read(tmp_path)
        assert back is not None and back.to_json() == audit.to_json()
