"""Situations with a known fault, or none, through the real stations: what must be said, and what must not.

Networks are made by hand, so that what they read is known; the rest is as ``foveate run`` does it: audit,
predict, evaluate, probe. Each situation names every caution that it may end with.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from foveate.bundle import bundle as bundles
from foveate.contract import Classifier
from foveate.errors import AuditStopped
from foveate.report.cautions import find_cautions
from foveate.report.files import RunFiles
from foveate.stations import predict as predicting
from foveate.stations import probe as probes
from foveate.stations.audit import audit
from foveate.stations.evaluate import evaluate
from foveate.stations.predict import predict
from foveate.stations.run import Run
from foveate.stations.split import split
from foveate.study.study import Study
from test_probes import CORNER, SIDE, ReadsPatch, bundle_of, write_cases
from test_probes_marked import Knows, Reads, across, area, around, darkness, inside, write_lesions

pytestmark = pytest.mark.slow

Rows = list[dict[str, str]]
Change = Callable[[Rows, Path], Any]


def above(reads: Reads, middle: float) -> Reads:
    """What is read, less what lies between healthy and ill."""
    return lambda red, lesion: reads(red, lesion) - middle


INSIDE, AROUND = above(inside, 0.55), above(around, 0.55)
AREA, PLACE = above(area, 0.8), above(across, 0.5)
DARKNESS = above(darkness, 0.2)
NOISE = above(lambda red, lesion: red[:, 1, 1], 0.47)


@dataclass(frozen=True)
class Situation:
    """One cohort, one network, and what is to be said of them.

    Attributes:
        must: codes of cautions that must be there.
        may: codes that may be there as well; no other may.
        reads: what the network reads of images with lesions.
        cohort: options of ``write_lesions``.
        change: alters the manifest's rows, in the folder of the images.
        sizes: training, validation and test cases.
        allow: audit findings that are accepted.
        part: that is evaluated.
        network: another network than ``Knows(reads)``.
        write: another cohort than that of lesions.
    """

    must: Sequence[str] = ()
    may: Sequence[str] = ()
    reads: Reads = INSIDE
    cohort: Mapping[str, Any] = field(default_factory=lambda: {"differs": "inside"})
    change: Change = lambda rows, folder: None
    sizes: tuple[int, int, int] = (40, 40, 40)
    allow: Sequence[str] = ()
    part: str = "test"
    network: Classifier | None = None
    write: Callable[..., Path] | None = None


def _column(
    name: str, healthy: Callable[[int], str], ill: Callable[[int], str]
) -> Callable[[Rows, Path], None]:
    def change(rows: Rows, folder: Path) -> None:
        for number, row in enumerate(rows):
            row[name] = (ill if row["label"] == "ill" else healthy)(number)

    return change


def _no_patients(rows: Rows, folder: Path) -> None:
    for row in rows:
        row["patient_id"] = row["case_id"]


def _shuffled_labels(rows: Rows, folder: Path) -> None:
    labels = np.random.default_rng(1).permutation([row["label"] for row in rows])
    for row, label in zip(rows, labels, strict=True):
        row["label"] = str(label)


def _few_ill(rows: Rows, folder: Path) -> None:
    """Seven ill cases are left among the last forty."""
    ill = [row for row in rows[80:] if row["label"] == "ill"][7:]
    for row in ill:
        rows.remove(row)


def _named_by_class(rows: Rows, folder: Path) -> None:
    for row in rows:
        name = f"{row['label']}{row['image']}"
        shutil.copy(folder / row["image"], folder / name)
        row["image"] = name


def _some_grey(rows: Rows, folder: Path) -> None:
    for row in rows[::3]:
        grey = Pillow.open(folder / row["image"]).convert("L")
        grey.save(folder / row["image"])


def _copied_into_the_test(rows: Rows, folder: Path) -> None:
    for row, source in zip(rows[80:90], rows[:10], strict=True):
        shutil.copy(folder / source["image"], folder / row["image"])
        row["label"] = source["label"]


def _one_patient_in_two_parts(rows: Rows, folder: Path) -> None:
    rows[100]["patient_id"] = rows[0]["patient_id"]


def _contradictory_copies(rows: Rows, folder: Path) -> None:
    shutil.copy(folder / rows[0]["image"], folder / rows[1]["image"])


def _only_healthy_tested(rows: Rows, folder: Path) -> None:
    rows[:] = rows[:80] + [row for row in rows[80:] if row["label"] == "healthy"]


def _all_marked(rows: Rows, folder: Path) -> None:
    for row in rows:
        Pillow.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(folder / row["mask"])


def _no_masks(rows: Rows, folder: Path) -> None:
    for row in rows:
        del row["mask"]


def _enlarged(rows: Rows, folder: Path) -> None:
    """Files of the ill are twice as wide and high, and the network knows nothing else."""
    for row in rows:
        if row["label"] == "ill":
            for name in (row["image"], row["mask"]):
                Pillow.open(folder / name).resize((2 * SIDE, 2 * SIDE), Pillow.Resampling.NEAREST).save(
                    folder / name
                )


AGES = np.random.default_rng(4).integers(30, 90, 1000)
OFTEN = np.random.default_rng(2).random(1000) < 0.8
FEW = ("small-validation", "few-patients", "few-events")
SITUATIONS = {
    "a good honest model": Situation(),
    "a good honest model, no masks": Situation(change=_no_masks),
    "a good honest model, no metadata that tells": Situation(
        change=_column("age", lambda n: str(AGES[n]), lambda n: str(AGES[n]))
    ),
    "a marker in a corner": Situation(
        ("shortcut",),
        ("told-without-looking", "label-told"),
        network=ReadsPatch(CORNER),
        write=partial(write_cases, marker=True),
    ),
    "the same marker, not read": Situation(
        (),
        ("told-without-looking", "label-told"),
        network=ReadsPatch((slice(12, 20), slice(12, 20))),
        write=partial(write_cases, marker=True),
    ),
    "texture around the lesion": Situation(
        ("shortcut",), ("told-without-looking", "label-told"), AROUND, {"differs": "around"}
    ),
    "nothing but the lesion's area": Situation(
        ("told-without-looking",), ("shortcut",), AREA, {"differs": "area"}
    ),
    "areas differ, the network reads something else": Situation(
        ("no-better-than-guessing",),
        ("told-without-looking", "undefined"),
        INSIDE,
        {"differs": "area"},
    ),
    "nothing but the lesion's position": Situation(
        ("told-without-looking",), ("shortcut", "label-told"), PLACE, {"differs": "across"}
    ),
    "padding of files less high": Situation(
        ("told-without-looking",), ("shortcut",), DARKNESS, {"differs": "none", "height": (SIDE, 20)}
    ),
    "sizes of files tell, the network guesses": Situation(
        ("told-without-looking", "no-better-than-guessing"),
        ("shortcut",),
        NOISE,
        {"differs": "none"},
        change=_enlarged,
    ),
    "a scanner that is the label": Situation(
        ("told-without-looking",),
        change=_column("scanner", lambda n: "A", lambda n: "B"),
    ),
    "a scanner that often is the label": Situation(
        ("label-told",),
        change=_column("scanner", lambda n: "AB"[int(not OFTEN[n])], lambda n: "AB"[int(OFTEN[n])]),
    ),
    "a scanner that is not": Situation(
        change=_column("scanner", lambda n: "AB"[n // 2 % 2], lambda n: "AB"[n // 2 % 2])
    ),
    "file names with the class": Situation(("names-tell",), change=_named_by_class),
    "patients unknown": Situation(("patients-unknown",), change=_no_patients),
    "labels drawn by lot": Situation(("no-better-than-guessing",), ("shortcut",), change=_shuffled_labels),
    "a network that guesses": Situation(("no-better-than-guessing",), (), NOISE),
    "seven positives": Situation(("few-events",), ("few-patients",), change=_few_ill, sizes=(40, 40, 27)),
    "22 validation cases": Situation(("small-validation",), sizes=(58, 22, 40)),
    "20 test cases": Situation(("few-patients",), ("few-events",), sizes=(50, 50, 20)),
    "only healthy tested": Situation(
        ("undefined", "few-events"), ("few-patients",), change=_only_healthy_tested, sizes=(40, 40, 20)
    ),
    "figures of validation cases": Situation(("not-a-test",), part="val"),
    "copies of training images in the test": Situation(
        ("accepted",), ("label-told",), change=_copied_into_the_test, allow=("duplicate-in-two-splits",)
    ),
    "a patient in two parts": Situation(
        ("accepted",), change=_one_patient_in_two_parts, allow=("patient-in-two-splits",)
    ),
    "contradictory copies": Situation(
        ("accepted",), change=_contradictory_copies, allow=("conflicting-labels",)
    ),
    "grey and colour": Situation(("noted",), ("no-better-than-guessing", "shortcut"), change=_some_grey),
    "nothing left to ask": Situation(("few-questions",), ("told-without-looking",), change=_all_marked),
}


def _study(manifest: Path, situation: Situation) -> Study:
    return Study.model_validate(
        {
            "name": "situation",
            "data": {"manifest": manifest},
            "split": {"column": "part"},
            "audit": {"allow": list(situation.allow)},
            "preprocess": {"size": (SIDE, SIDE)},
            "model": {"name": "timm:test_resnet"},
            "evaluate": {"bootstrap": 200},
            "probe": {"tiles": 8},
        }
    )


def _manifest(folder: Path, situation: Situation, seed: int | None) -> Path:
    """Draw the cohort, alter it, and say of each case in which part it is."""
    folder.mkdir(exist_ok=True)
    drawn = {} if seed is None else {"seed": seed}
    write = situation.write or partial(write_lesions, **situation.cohort)
    path = write(folder, **drawn)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    situation.change(rows, folder)
    parts = [
        name
        for name, size in zip(("train", "val", "test"), situation.sizes, strict=True)
        for _ in range(size)
    ]
    for row, part in zip(rows, parts, strict=True):
        row["part"] = part
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def cautions_of(
    folder: Path, situation: Situation, monkeypatch: pytest.MonkeyPatch, seed: int | None = None
) -> dict[str, list[str]]:
    """Go the way of a run with a network made by hand; sentences by code."""
    run = Run.create(_study(_manifest(folder, situation, seed), situation), folder / "run")
    audit(run).raise_if_stopped()
    split(run)
    bundle = bundle_of(CORNER)
    object.__setattr__(bundle, "model", (situation.network or Knows(situation.reads)).eval())
    monkeypatch.setattr(bundles, "load_bundle", lambda _: bundle)
    monkeypatch.setattr(bundles, "save_fitted", lambda *_: None)
    monkeypatch.setattr(predicting, "learn_familiar", lambda run, bundle, *_: bundle)  # it has no features
    (run.folder / "bundle").mkdir()
    predict(run)
    evaluate(run, situation.part)
    probes.probe(run, situation.part)
    found: dict[str, list[str]] = {}
    for item in find_cautions(RunFiles.read(run.folder)).items:
        found.setdefault(item.code, []).append(item.sentence)
    return found


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_first_page_says_what_it_must_and_no_more(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    situation = SITUATIONS[name]
    found = cautions_of(tmp_path / "cohort", situation, monkeypatch)
    assert set(situation.must) <= set(found), found
    assert set(found) <= {*situation.must, *situation.may}, found


@pytest.mark.parametrize("name", [name for name, situation in SITUATIONS.items() if situation.allow])
def test_what_was_not_accepted_stops(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuditStopped):
        cautions_of(tmp_path / "cohort", replace(SITUATIONS[name], allow=()), monkeypatch)
