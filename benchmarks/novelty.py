"""Are images of another kind noticed? Small models of one set each are shown eight other sets, and their own.

    python benchmarks/novelty.py --data ../shared/data --work novelty

Each model (EfficientNet-lite0 from ImageNet weights at 96 pixels, 5 epochs) learns from about 110 images and
has 22 validation cases. Flagged is what ``foveate predict`` would warn of: ``novel`` (features beyond the
limit of the validation cases) or ``unlike-…`` (colour, encoding, size, values, look: see
``foveate.bundle.familiar``). The table goes into docs/statistics.md.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from foveate.bundle.bundle import Bundle, load_bundle
from foveate.data.manifest.manifest import load_manifest
from foveate.stations.audit import audit
from foveate.stations.batches import cases_of
from foveate.stations.predict import predict, predict_cases
from foveate.stations.run import Run
from foveate.stations.split import split
from foveate.stations.train import train
from foveate.study.study import Study
from foveate.types import Case, quiet
from real_data import SETS

MODELS = ("busi", "milk10k", "nih", "sipakmed")
FOLDERS = {"nih": "nih_cxr14_1000", "milk10k": "milk10k_pairs"}
LEARNED, SHOWN, SEED = 220, 120, 0
VALIDATION = 0.17  # of what is not tested
SIZE, EPOCHS = 96, 5


def main() -> int:
    """Train what is not there yet, show every set to every model, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("FOVEATE_DATA"), required=False)
    parser.add_argument("--work", type=Path, default=Path("novelty"))
    parser.add_argument(
        "--learned", type=int, default=LEARNED, help="cases of each model's set that are used"
    )
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    chosen = parser.parse_args()
    if chosen.data is None:
        parser.error("name the folder of real images with --data, or set FOVEATE_DATA")
    torch.set_num_threads(1)
    cohorts = {name: _cohort(name, chosen.data, chosen.work / "data") for name in (*MODELS, "idrid")}
    sets = cohorts | _others(chosen.data, chosen.work / "data")
    print(f"| model of | validation | own | {' | '.join(sets)} |")
    print(f"|---|---|---|{'---|' * len(sets)}")
    for name in chosen.models:
        run, rest = _trained(name, cohorts[name], chosen.work, chosen.learned)
        bundle = load_bundle(run.folder / "bundle")
        own = [*cases_of(run, run.cohort(), ["test"]), *rest][: 2 * SHOWN]
        validation = len(cases_of(run, run.cohort(), ["val"]))
        told = {other: _flagged(bundle, _shown(cases)) for other, cases in sets.items() if other != name}
        cells = [_cell(told[other]) if other in told else "–" for other in sets]
        print(f"| {name} | {validation} | {_cell(_flagged(bundle, own))} | {' | '.join(cells)} |", flush=True)
    return 0


def _cohort(name: str, data: Path, work: Path) -> list[Case]:
    """The cases of a set; of pairs of photos the dermoscopic one alone."""
    manifest = work / FOLDERS.get(name, name) / "manifest.csv"
    cohort = load_manifest(manifest if manifest.is_file() else SETS[name](data, work))
    view = "dermoscopic" if name == "milk10k" else "image"
    return [
        Case(case.case_id, case.patient_id, {"image": case.views[view]}, case.label, case.findings)
        for case in cohort.cases
    ]


def _others(data: Path, work: Path) -> dict[str, list[Case]]:
    """Sets without labels that a model could learn: blood smears, CT and MR slices, small radiographs."""
    found = {
        "bccd": sorted((data / "bccd").rglob("*.jpg")),
        "liver_ct": sorted((data / "liver_ct_msd_sarah/images").iterdir()),
    }
    with np.load(data / "medmnist_pneumonia" / "pneumoniamnist.npz") as stored:
        found["pneumonia_mnist"] = _pngs(work / "pneumonia_mnist", list(stored["train_images"][:SHOWN]))
    slices = []
    for path in sorted((data / "acdc_ed_es" / "volumes").glob("*.npz")):
        with np.load(path) as stored:
            volume = stored["ed"]
        shown = volume[len(volume) // 2].astype(float)
        slices.append(np.clip(255 * shown / max(np.percentile(shown, 99.5), 1), 0, 255).astype(np.uint8))
    found["acdc"] = _pngs(work / "acdc_slices", slices)
    return {
        name: [Case(path.stem, path.stem, {"image": path}) for path in paths] for name, paths in found.items()
    }


def _pngs(folder: Path, pictures: Sequence[np.ndarray]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, values in enumerate(pictures):
        Image.fromarray(values).save(folder / f"{number:04d}.png")
    return sorted(folder.glob("*.png"))


def _trained(name: str, cases: Sequence[Case], work: Path, learned: int) -> tuple[Run, list[Case]]:
    """A run with so many cases of a set, and cases of other patients."""
    order = np.random.default_rng(SEED).permutation(len(cases))
    chosen = [cases[place] for place in order[:learned]]
    patients = {case.patient_id for case in chosen}
    rest = [cases[place] for place in order[learned:] if cases[place].patient_id not in patients]
    folder = work / f"{name}-{learned}"
    if (folder / "predictions.csv").is_file():
        return Run.open(folder), rest
    manifest = work / "data" / FOLDERS.get(name, name) / f"learned-{learned}.csv"
    findings = sorted({key for case in chosen for key in case.findings})
    rows = [
        ",".join(
            [
                case.case_id,
                case.patient_id,
                case.views["image"].resolve().relative_to(manifest.parent.resolve()).as_posix(),
            ]
            + ([str(case.label)] if case.label else [f"{case.findings.get(key, 0):g}" for key in findings])
        )
        for case in chosen
    ]
    header = ",".join(["case_id", "patient_id", "image", *(findings or ["label"])])
    manifest.write_text("\n".join([header, *rows]), encoding="utf-8")
    study = Study.model_validate(
        {
            "name": name,
            "data": {"manifest": manifest},
            "audit": {"allow": ["conflicting-labels", "duplicate-in-two-splits"]},
            "split": {"val": VALIDATION, "test": 0.4, "seed": SEED},
            "preprocess": {"size": (SIZE, SIZE)},
            "model": {"name": "timm:tf_efficientnet_lite0", "pretrained": "efficientnet_lite0"},
            "train": {"epochs": EPOCHS},
        }
    )
    run = Run.create(study, folder)
    audit(run)
    split(run)
    train(run)
    predict(run)
    return run, rest


def _shown(cases: Sequence[Case]) -> list[Case]:
    order = np.random.default_rng(SEED).permutation(len(cases))[:SHOWN]
    return [cases[place] for place in order]


def _flagged(bundle: Bundle, cases: Sequence[Case]) -> Mapping[str, float]:
    """Share of cases with any doubt about their kind, and with each."""
    unlabelled = [Case(case.case_id, case.patient_id, case.views) for case in cases]
    predictions, refused = predict_cases(bundle, unlabelled, quiet)
    assert not refused, refused
    kinds = Counter(
        kind
        for item in predictions
        for kind in {"any" if code else "" for code in _doubts(item.abstain)} | set(_doubts(item.abstain))
    )
    return {kind: count / len(predictions) for kind, count in kinds.items()} | {
        "any": kinds["any"] / len(predictions)
    }


def _doubts(abstain: Sequence[str]) -> list[str]:
    return [code for code in abstain if code == "novel" or code.startswith("unlike-")]


def _cell(found: Mapping[str, float]) -> str:
    """All that is flagged, and in brackets by the network's features alone."""
    return f"{100 * found['any']:.0f} % ({100 * found.get('novel', 0):.0f})"


if __name__ == "__main__":
    raise SystemExit(main())
