"""A run folder as the stations leave it, made of invented predictions and heat maps."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from foveate.data.audit.findings import finding
from foveate.evaluate import evaluate_predictions
from foveate.evaluate.intervals import Bootstrap, Value
from foveate.evaluate.localization import (
    BoxThresholds,
    CaseScore,
    VolumeTruth,
    best_of,
    ceiling_cells,
    control_maps,
    score_case,
    summarise_localization,
)
from foveate.evaluate.localization.grids import spread, whole
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.probabilities.calibrators import Calibrator
from foveate.evaluate.results.audit import Audit
from foveate.evaluate.results.localization import BoxRuleFacts
from foveate.evaluate.results.probes import Probes
from foveate.evaluate.results.splits import Splits
from foveate.evaluate.results.trust import TrustCard
from foveate.evaluate.table import PredictionTable, read_predictions, write_predictions
from foveate.evaluate.view_shares import mean_shares
from foveate.files import write_atomic, write_json
from foveate.maps.heatmaps import MapEntry, Share, file_name, write_case, write_index, write_shares
from foveate.maps.localize import BoxRule, localize_heatmap, sweep
from foveate.maps.regions import Region
from foveate.study.settings import SplitConfig
from foveate.types import Array, Box, Heatmap, Prediction, Task
from trust_run import trust_card

SIDE = 96  # pixels of an image
DEPTH = 9  # slices of a volume
SWEPT = (0.3, 0.5, 0.7)  # thresholds that boxes are tried at
TRAIN_CASES, TRAIN_PATIENTS = 300, 100
EVIL = "<script>alert('case')</script>"


def write_run(
    folder: Path,
    *,
    task: Task = "multiclass",
    classes: Sequence[str] = ("cyst", "FNH", "HCC", "hemangioma", "normal"),
    patients: int = 40,
    per_patient: int = 3,
    absent: Sequence[str] = (),
    views: Sequence[str] = ("image",),
    volumes: bool = False,
    seed: int = 0,
) -> Path:
    """Write a whole run.

    Args:
        folder: to write into.
        task: kind of labels.
        classes: class or finding names.
        patients: number of patients.
        per_patient: cases of each.
        absent: classes that no case has.
        views: of each case; with several, every third case lacks the last one.
        volumes: whether images are volumes.
        seed: of everything drawn.
    """
    draws = np.random.default_rng(seed)
    predictions = _predictions(task, classes, patients, per_patient, absent, draws)
    if len(views) > 1:
        kept = [views[: len(views) - (number % 3 == 2)] for number in range(len(predictions))]
        predictions = [replace(item, views=tuple(own)) for item, own in zip(predictions, kept, strict=True)]
    predictions = _calibrated(folder, task, classes, predictions)
    write_predictions(folder / "predictions.csv", task, classes, predictions)
    table = read_predictions(folder / "predictions.csv")
    options = EvaluateOptions(
        metadata=_metadata(table),
        min_group=6,
        prevalence={classes[0]: 0.05},
        order=tuple(classes) if task == "multiclass" else None,
    )
    evaluate_predictions(table, n_boot=200, options=options).write(folder)
    if len(views) == 1 and not volumes:
        _write_evidence(folder, table, draws)
    else:
        _write_views(folder, table, views, volumes, draws)
    _write_audit(folder, table, draws)
    _write_splits(folder, table)
    _write_training(folder / "training.csv")
    _write_provenance(folder, task)
    _write_probes(folder, classes, views, table)
    TrustCard.from_json(trust_card(table.part("test").patient_ids, classes)).write(folder)
    return folder


def _predictions(
    task: Task,
    classes: Sequence[str],
    patients: int,
    per_patient: int,
    absent: Sequence[str],
    draws: np.random.Generator,
) -> list[Prediction]:
    found = []
    allowed = [index for index, name in enumerate(classes) if name not in absent]
    for patient in range(patients):
        for number in range(per_patient):
            truth = np.zeros(len(classes))
            if task == "multiclass":
                truth[draws.choice(allowed)] = 1
            else:
                truth[allowed] = draws.random(len(allowed)) < 0.18
            logits = draws.normal(size=len(classes)) * 1.2 + 2.2 * truth - (task == "multilabel")
            odds = np.exp(logits)
            case_id = EVIL if patient == number == 0 else f"case-{patient:03d}-{number}"
            part = "val" if patient % 4 == 3 else "test"
            share = odds / odds.sum() if task == "multiclass" else odds / (1 + odds)
            found.append(
                Prediction(
                    case_id,
                    f"patient-{patient:03d}",
                    part,
                    logits,
                    share,
                    truth,
                    novelty=float(3 - share.max() + patient % 5),
                )
            )
    return found


def _metadata(table: PredictionTable) -> dict[str, dict[str, str]]:
    """Age and sex of each patient, and a hostile site that only some have."""
    numbers = [int(name.removeprefix("patient-")) for name in table.patient_ids]
    return {
        case_id: {"age": str(7 * number % 90), "sex": "FM"[number % 2], "site": EVIL if number % 3 else ""}
        for case_id, number in zip(table.case_ids, numbers, strict=True)
    }


def _calibrated(
    folder: Path, task: Task, classes: Sequence[str], predictions: Sequence[Prediction]
) -> list[Prediction]:
    """With calibrated probabilities; the bundle says how they were fitted."""
    val = PredictionTable.of(task, classes, predictions).part("val")
    calibrator = Calibrator.fit(val.logits, val.truth, task=task)
    facts = {"classes": list(classes), "calibration": calibrator.to_json()}
    (folder / "bundle").mkdir(parents=True, exist_ok=True)
    write_json(folder / "bundle" / "bundle.json", facts)
    if not calibrator.fitted:
        return list(predictions)
    calibrated = calibrator.apply(np.stack([item.logits for item in predictions]))
    return [replace(item, calibrated=row) for item, row in zip(predictions, calibrated, strict=True)]


def _write_evidence(folder: Path, table: PredictionTable, draws: np.random.Generator) -> None:
    """Heat maps, boxes and localization of every case; the maps point roughly at the lesion."""
    entries: list[MapEntry] = []
    scores: list[CaseScore] = []
    boxes: list[tuple[object, ...]] = []
    decided = table.decisions()
    for row, case_id in enumerate(table.case_ids):
        true = [name for name, value in zip(table.classes, table.truth[row], strict=True) if value == 1]
        said = [name for name, yes in zip(table.classes, decided[row], strict=True) if yes]
        picture, mask = lesion_picture(draws)
        maps = [
            Heatmap(_evidence(mask, name in true, draws), name, "gradcam", "image", case_id)
            for name in dict.fromkeys((*true, *said))
        ]
        if not maps:
            continue
        name = file_name(case_id, "image")
        write_case(folder / "heatmaps" / name, maps, picture, mask if true else None)
        targets = tuple(item.target for item in maps)
        best = float(table.probabilities[row].max())
        entries.append(
            MapEntry(
                case_id,
                table.patient_ids[row],
                table.splits[row],
                "image",
                "gradcam",
                targets,
                ";".join(true),
                ";".join(said),
                best,
                name,
            )
        )
        for item in maps:
            for box in localize_heatmap(item.values, BoxRule(0.5), label=item.target).boxes:
                boxes.append((case_id, "image", item.target, *box.xywh, box.score))
            if item.target in true and table.splits[row] == "test":
                scores += _scores(item, picture, mask, table.patient_ids[row], said)
    write_index(folder / "heatmaps", entries)
    _write_csv(folder / "boxes.csv", ("case_id", "view", "target", "x", "y", "w", "h", "score"), boxes)
    thresholds = {"heatmap": 0.5, "random": 0.4, "centre": 0.5}
    chosen = dict.fromkeys(
        ("heatmap", "random", "centre", "edge", "average", "ceiling"), BoxThresholds(1, (0, 1, 1))
    )
    summarise_localization(
        scores,
        split="test",
        explainer="gradcam",
        rule=BoxRuleFacts(kind="peak", keep="largest", threshold=thresholds),
        bootstrap=Bootstrap(100),
        box_thresholds=chosen,
        left_out={"predicted": "the maps of the predicted classes were not drawn"},
    ).write(folder)


def _write_views(
    folder: Path, table: PredictionTable, views: Sequence[str], volumes: bool, draws: np.random.Generator
) -> None:
    """Heat maps and shares of every view that a case has; the first view of a plane has a box, no mask."""
    entries: list[MapEntry] = []
    shares: list[Share] = []
    boxes: list[tuple[object, ...]] = []
    scores: list[tuple[str, CaseScore]] = []
    decided = table.decisions()
    for row, case_id in enumerate(table.case_ids):
        true = [name for name, value in zip(table.classes, table.truth[row], strict=True) if value == 1]
        said = [name for name, yes in zip(table.classes, decided[row], strict=True) if yes]
        targets = tuple(dict.fromkeys((*true, *said)))
        own = table.views[row].split("+") if table.views and table.views[row] else list(views)
        for number, view in enumerate(own):
            picture, mask, values = _view(volumes, draws)
            maps = [
                Heatmap(values * (1 + t), name, "gradcam", view, case_id) for t, name in enumerate(targets)
            ]
            region, name = Region.from_mask(mask), file_name(case_id, view)
            marked = number > 0 or volumes
            truth = [Box(box.start, box.stop, true[0]) for box in region.boxes]
            stored = (mask, ()) if marked else (None, truth)
            write_case(folder / "heatmaps" / name, maps, picture, *stored)
            entries.append(
                MapEntry(
                    case_id,
                    table.patient_ids[row],
                    table.splits[row],
                    view,
                    "integrated_gradients",
                    targets,
                    ";".join(true),
                    ";".join(said),
                    float(table.probabilities[row].max()),
                    name,
                    tuple(0.0125 for _ in targets),
                )
            )
            for item in maps:
                for box in localize_heatmap(item.values, BoxRule(0.5), label=item.target).boxes:
                    corner, size = (
                        box.start[::-1],
                        [b - a for a, b in zip(box.start, box.stop, strict=True)][::-1],
                    )
                    boxes.append((case_id, view, item.target, *corner, *size, box.score))
            if table.splits[row] == "test":
                own_scores = _scores(maps[0], picture, mask, table.patient_ids[row], said)
                scores += [(view, score) for score in own_scores]
            weight = (len(views) - number) / len(views)
            for target in targets:
                value = weight * 2 + draws.normal() * 0.4
                base = (case_id, table.patient_ids[row], table.splits[row], target, view)
                shares.append(Share(*base, value, weight / (len(own) or 1), "missing"))
    write_index(folder / "heatmaps", entries)
    write_shares(folder / "heatmaps", shares)
    mean_shares(shares, Bootstrap(200)).write(folder)
    axes = ("x", "y", "z", "w", "h", "d") if volumes else ("x", "y", "w", "h")
    _write_csv(folder / "boxes.csv", ("case_id", "view", "target", *axes, "score"), boxes)
    rule = BoxRuleFacts(keep="largest", threshold={"heatmap": 0.5, "random": 0.4, "centre": 0.5})
    summarise_localization(
        [score for _, score in scores],
        split="test",
        explainer="integrated_gradients",
        rule=rule,
        bootstrap=Bootstrap(100),
        views=[view for view, _ in scores],
    ).write(folder)


def _view(volumes: bool, draws: np.random.Generator) -> tuple[Array, Array, Array]:
    """Picture, mask and heat map; of a volume the map is strongest one slice above the lesion."""
    picture, mask = lesion_picture(draws)
    values = _evidence(mask, True, draws)
    if not volumes:
        return picture, mask, values
    middle = int(draws.integers(2, DEPTH - 2))
    near = np.abs(np.arange(DEPTH) - middle)
    solid = mask[None] & (near[:, None, None] <= 1)
    solid[middle + 1, : SIDE // 2] = False
    off = np.exp(-((np.arange(DEPTH) - middle - 1) ** 2) / 2).astype(np.float32)
    shade = (1 - 0.06 * near)[:, None, None]
    return (picture[None] * shade).astype(np.uint8), solid, values[None] * off[:, None, None]


def lesion_picture(draws: np.random.Generator) -> tuple[Array, Array]:
    """A noisy grey picture with a bright disc, and the mask of the disc."""
    y, x = np.mgrid[:SIDE, :SIDE]
    centre, radius = draws.uniform(22, SIDE - 22, 2), draws.uniform(6, 14)
    mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    body = ((y - 48) / 44) ** 2 + ((x - 48) / 38) ** 2 < 1
    grey = 18 + 70 * body + 60 * mask + draws.normal(0, 9, (SIDE, SIDE))
    return np.clip(grey, 0, 255).astype(np.uint8), mask


def _evidence(mask: Array, true: bool, draws: np.random.Generator) -> Array:
    """Positive evidence near the lesion (or anywhere), with some against elsewhere."""
    y, x = np.mgrid[:SIDE, :SIDE]
    place = (
        np.argwhere(mask).mean(axis=0) if true and draws.random() < 0.85 else draws.uniform(10, SIDE - 10, 2)
    )
    other = draws.uniform(10, SIDE - 10, 2)
    centre, against = (np.exp(-((y - p[0]) ** 2 + (x - p[1]) ** 2) / (2 * 11.0**2)) for p in (place, other))
    return np.asarray(2.3 * centre - 0.8 * against, dtype=np.float32)


def _scores(item: Heatmap, picture: Array, mask: Array, patient: str, said: Sequence[str]) -> list[CaseScore]:
    """Scores of a map, of the controls, and of what a grid of seven cells along each side could reach."""
    truth = Region.from_mask(mask, item.target)
    average = np.zeros((3,) * mask.ndim)
    average[(1,) * mask.ndim] = 1.0

    grid, field = (7,) * mask.ndim, whole(mask.shape)
    volume = VolumeTruth.of(mask, grid, field, thickness=2.5) if mask.ndim == 3 else None

    def score(values: Array, method: str) -> CaseScore:
        return score_case(
            values,
            localize_heatmap(values, BoxRule(0.5)),
            truth,
            case_id=item.case_id,
            patient_id=patient,
            label=item.target,
            method=method,
            answer="right" if item.target in said else "wrong",
            sweep=sweep(values, SWEPT),
            volume=volume,
        )

    controls = control_maps(mask.shape, case_id=item.case_id, picture=picture, average=average)
    rows = [score(values, method) for method, values in {"heatmap": item.values, **controls}.items()]
    known = [spread(cells.values, mask.shape, field) for cells in ceiling_cells(mask, grid, field)]
    exact = None if volume is None else volume.ceiling()
    return [*rows, best_of([score(values, "ceiling") for values in known], rows[0], exact)]


def _write_audit(folder: Path, table: PredictionTable, draws: np.random.Generator) -> None:
    """Counts of the predicted cases and of TRAIN_CASES more, and a finding of each kind."""
    more = draws.integers(4, 60, len(table.classes))
    rows = [
        {
            "class": name,
            "positive": int((table.truth[:, index] == 1).sum() + more[index]),
            "negative": 500,
            "unknown": 12 if table.task == "multilabel" else 0,
            "patients": int(more[index]) // 2,
        }
        for index, name in enumerate(table.classes)
    ]
    images = {
        "view": "image",
        "images": 480,
        "grey": 480,
        "colour": 0,
        "width": [96.0, 512.0, 640.0],
        "height": [96.0, 512.0, 512.0],
        "depth": None,
        "lowest": [-1024.0, -1000.0, 0.0],
        "highest": [255.0, 1200.0, 3071.0],
        "spread": [90.0, 150.0, 201.0],
        "twin_correlation": 0.97,
    }
    Audit.from_json(
        {
            "findings": [
                finding(
                    "conflicting-labels",
                    "2 groups of twins carry different labels, such as a, b",
                    ("a", "b"),
                    (("a", "b"),),
                ).model_copy(update={"allowed": True}),
                finding(
                    "near-duplicates",
                    f"140 groups of nearly the same image, such as {EVIL}",
                    [f"twin-{number}" for number in range(300)],
                ),
            ],
            "groups": [["a", "b"]],
            "tables": {"classes": rows, "parts": [], "images": [images]},
            "allowed": ["conflicting-labels"],
            "cases": len(table.case_ids) + TRAIN_CASES,
            "patients": len(set(table.patient_ids)) + TRAIN_PATIENTS,
            "manifest": "manifest.csv",
            "manifest_sha256": "0" * 64,
        }
    ).write(folder)


def _write_probes(folder: Path, classes: Sequence[str], views: Sequence[str], table: PredictionTable) -> None:
    """A marker found in the first view, nothing in the others; names that try to be markup."""
    counts = {"n": len(table.case_ids), "patients": len(set(table.patient_ids))}
    sure, rough, none = (
        Value(0.41, 0.3, 0.52, **counts).to_json(),
        Value(0.98, None, None, **counts, reason="the bootstrap replicates do not differ").to_json(),
        Value(None, None, None, **counts, reason="no case tells it").to_json(),
    )
    asked = {"original": rough, "same": rough, "other": sure, "effect": sure}
    whole = asked | {"removed": sure, "removal": sure, "lost": none, "gained": sure}
    box, marker = [0.0, 0.875, 0.125, 1.0], "A marker at the top right decides."
    ring = [[row in (0, 7) or column in (0, 7) for column in range(8)] for row in range(8)]
    edges = list(range(0, SIDE + 1, SIDE // 8))
    rows = [
        {
            "name": "tile",
            "box": box,
            "class": classes[0],
            **asked,
            "p": 0.001,
            "p_corrected": 0.01,
            "found": True,
        },
        {"name": EVIL, "box": None, "class": None, **asked, "p": None, "p_corrected": None, "found": False},
    ]
    own = {
        "n": counts["n"],
        "attribution": {
            "explainer": "gradcam",
            "border": {"evidence": sure, "area": rough, "excess": none},
            "outside_organ": {"reason": "no test case has an organ mask"},
        },
        "tiles": {
            "screened_on": "val",
            "rows": edges,
            "columns": edges,
            "moved": [[max(column - row, -1) / 7 for column in range(8)] for row in range(8)],
            "class": [[classes[0]] * 8] * 8,
            "suspect": ring,
            "organ": None,
            "truth": None,
        },
        "tested": rows,
        "regions": [{"name": "border", "box": None, "class": None, "all": whole, "by_class": {}}],
        "background": {"region": "border", "reason": "there is hardly any background"},
    }
    shortcut = {
        "kind": "marker",
        "where": {"view": views[0], "box": box, "position": "top right"},
        "class": classes[0],
        "effect": 0.41,
        "interval": [0.3, 0.52],
        "p": 0.01,
        "sentence": marker,
    }
    sentence = f"Metadata alone ({EVIL}) tell the class."
    leak = shortcut | {"kind": "metadata", "network_better": False, "sentence": sentence}
    told = {"auroc_macro": sure, "per_class": {classes[0]: sure | {"p": 0.01}}, "telling": [classes[0]]}
    content = {
        "split": "test",
        **counts,
        "classes": list(classes),
        "bootstrap": {"n": 2000, "level": 0.95, "unit": "patient", "seed": 0},
        "shortcuts": [shortcut],
        "leaks": [leak],
        "sentences": [marker, f"Asked: the border. Not asked: {views[0]}: strokes."],
        "asked": ["the border"],
        "tiles": 28,
        "views": dict.fromkeys(views, own),
        "metadata": {"columns": ["age", EVIL], "strongest": [EVIL], **told},
        "not_tested": [f"{views[0]}: strokes"],
    }
    Probes.from_json(content).write(folder)


def _write_splits(folder: Path, table: PredictionTable) -> None:
    fold = {f"train-{number}": "train" for number in range(TRAIN_CASES)}
    fold |= dict(zip(table.case_ids, table.splits, strict=True))
    warnings = ("cyst has 1 patient in val",)
    Splits(manifest_sha256="0" * 64, config=SplitConfig(seed=7), warnings=warnings, folds=(fold,)).write(
        folder
    )


def _write_training(path: Path, epochs: int = 12) -> None:
    epoch = np.arange(1, epochs + 1)
    rows = zip(
        epoch,
        1.6 * np.exp(-epoch / 4) + 0.1,
        1.5 * np.exp(-epoch / 3.5) + 0.015 * epoch + 0.2,
        ["", *(0.9 - 0.6 * np.exp(-epoch[1:] / 3) - 0.004 * np.maximum(epoch[1:] - 8, 0))],
        0.97 - 0.4 * np.exp(-epoch / 3),
        0.0005 * (1 + np.cos(np.pi * epoch / epochs)),
        np.full(epochs, 11.5),
        np.full(epochs, 42.0),
        strict=True,
    )
    header = (
        "epoch",
        "train_loss",
        "val_loss",
        "balanced_accuracy",
        "auroc_macro",
        "lr",
        "seconds",
        "images_per_second",
    )
    _write_csv(path, header, rows)


def _write_provenance(folder: Path, task: Task) -> None:
    study = {
        "name": "liver-phantom" if task == "multiclass" else "chest-findings",
        "data": {"manifest": "manifest.csv"},
        "preprocess": {"size": [128, 128]},
        "model": {"name": "dadrn50", "pretrained": False},
        "train": {"epochs": 12, "monitor": "balanced_accuracy"},
        "seed": 7,
    }
    write_atomic(folder / "study.yaml", yaml.safe_dump(study, sort_keys=False))
    stations = ("audit", "split", "train", "predict", "evaluate", "explain", "localize")
    record = {
        "name": study["name"],
        "foveate": "0.1.0",
        "date": "2026-11-21T06:04:22+00:00",
        "command": ["foveate", "run", "study.yaml"],
        "seed": 7,
        "allowed": ["conflicting-labels"],
        "hashes": {
            name: f"{number}" * 64 for number, name in enumerate(("manifest", "study", "splits", "weights"))
        },
        "versions": {
            "python": "3.11.9",
            "foveate": "0.1.0",
            "torch": "2.11.0",
            "timm": "1.0.22",
            "numpy": "2.4.6",
        },
        "device": {"system": "Linux x86_64", "cores": 2},
        "stations": {
            name: {
                "started": f"2026-11-21T06:0{n}:00+00:00",
                "seconds": 3.25 * (n + 1) ** 2,
                "command": ["foveate", "run", "study.yaml"],
            }
            for n, name in enumerate(stations)
        },
    }
    write_atomic(folder / "run.json", json.dumps(record, indent=2))


def _write_csv(path: Path, header: Sequence[str], rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)  # type: ignore[arg-type]
