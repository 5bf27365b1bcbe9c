"""A run that nobody trained: everything that a run has, around a network with weights by chance."""

from __future__ import annotations

from pathlib import Path

import torch

from cohort_files import Row, picture, write_csv, write_image
from foveate.bundle.bundle import Bundle, Patients, save_bundle, save_images
from foveate.data.images import read_images
from foveate.data.known import KnownImages, read_looks
from foveate.evaluate.results.splits import Splits
from foveate.models import build_model
from foveate.prepare.preprocess import Preprocess
from foveate.stations.audit import audit
from foveate.stations.predict import predict
from foveate.stations.run import Run
from foveate.stations.split import split
from foveate.study.study import Study


def rows_of(folder: Path, names: range, patient: str = "p", classes: str = "xyz") -> list[Row]:
    """A different picture for each number, of as many patients, with the classes by turns."""
    rows: list[Row] = []
    for number in names:
        write_image(folder / f"{patient}{number:03d}.png", picture(number))
        rows.append(
            {
                "case_id": f"{patient}{number:03d}",
                "patient_id": f"{patient}-{number}",
                "label": classes[number % len(classes)],
                "image": f"{patient}{number:03d}.png",
            }
        )
    return rows


def small_run(folder: Path, cases: int = 90, **sections: object) -> Run:
    """A run with audit, splits, bundle and predictions; the bundle knows its patients and images."""
    torch.manual_seed(0)
    study = Study.model_validate(
        {
            "name": "small",
            "data": {"manifest": write_csv(folder / "manifest.csv", rows_of(folder, range(cases)))},
            "split": {"val": 0.4, "test": 0.3},
            "preprocess": {"size": (32, 32)},
            "model": {"name": "timm:test_resnet"},
            "evaluate": {"bootstrap": 100},
            **sections,
        }
    )
    run = Run.create(study, folder / "run")
    audit(run)
    split(run)
    give_bundle(run)
    predict(run)
    return run


def give_bundle(run: Run) -> None:
    """What training would leave."""
    cohort, preprocess = run.cohort(), Preprocess(run.study.preprocess)
    parts = run.result(Splits).folds[0]
    learned = {
        case.case_id: case.patient_id for case in cohort.cases if parts[case.case_id] in ("train", "val")
    }
    name, options = run.study.model.name, run.study.model.options
    spec = preprocess.input_spec(cohort.view_names)
    model = build_model(name, len(cohort.classes), spec, pretrained=False, options=options).eval()
    bundle = Bundle(
        model, name, options, preprocess, cohort.view_names, cohort.task, cohort.classes,
        Patients.of(learned.values()),
    )  # fmt: skip
    save_bundle(run.folder / "bundle", bundle)
    images = KnownImages.of(read_images(run.folder), read_looks(run.folder), learned)
    save_images(run.folder / "bundle", images)
