"""Whether a recipe trains: the losses of the first steps of studies, taken as a training takes them.

    python benchmarks/first_losses.py [STUDY.yaml ...] [--page docs/performance.md]
    python benchmarks/first_losses.py mine.yaml --set train.lr=0.01 train.grad_clip=1

Without arguments every shipped study is run at its full size. Data that cannot be shipped are replaced by the
phantom of the same kind, drawn at the study's size, with the study's views and classes as far as it has them.
Weights start at random (``pretrained`` is switched off), and all is computed in float32. Shown is the loss of
each step, ahead of its update, and, where it has several terms, that of the classification alone, since
others may come in by and by. Where a step takes very long, batches are smaller than the study's
(``BATCHES``), and the table says so.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from foveate.files import write_atomic
from recipe import STUDIES, on_a_phantom, parse_changes, training_steps
from sheet import Sheet, add_page, machine

HEADER = ("study", "network", "size", "batch", "s a step", "loss of each step")
# Cases of a step in place of the study's.
BATCHES: Mapping[str, int] = {
    "agf_pairs": 4,
    "can_chestxray14": 4,
    "cervical_herlev": 4,
    "cervical_masked": 4,
    "cervical_multicell": 4,
    "cervical_sipakmed": 4,
    "dadrn_liver_ct": 4,
    "lca_db_lld_mmri": 2,
    "lca_db_lld_mmri_malignancy": 2,
    "lca_db_lld_mmri_paper": 2,
}
# Patients of phantoms, by the kind of network, so that an epoch has several steps.
PATIENTS: Mapping[str, int] = {"dadrn50": 60, "lca": 28, "agf": 60, "can": 60}
OF_CELLS = 20


def rows_of(path: Path, steps: int, changes: Mapping[str, Any]) -> list[list[str]]:
    """One study's first losses, as the table shows them."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    patients = PATIENTS.get(content["model"]["name"].partition("_")[0], OF_CELLS)
    sizes: dict[str, Any] = {"split": {"test": 0.2, "val": 0.2}, "phantom.patients": patients}
    if path.stem in BATCHES:
        sizes["train.batch_size"] = BATCHES[path.stem]
    with tempfile.TemporaryDirectory() as folder:
        study = on_a_phantom(content, Path(folder) / "phantom", sizes | dict(changes))
        began = time.process_time()
        taken = islice(training_steps(study, Path(folder) / "cache"), steps)
        losses = [{name: term.item() for name, term in terms.items()} for _, terms in taken]
        seconds = (time.process_time() - began) / steps
    asked, batch = content["train"].get("batch_size", study.train.batch_size), study.train.batch_size
    size = "×".join(map(str, study.preprocess.size))
    cases = f"{batch}" if batch == asked else f"{batch} in place of {asked}"
    about = [f"`{path.stem}`", f"`{study.model.name}`", size, cases, f"{seconds:.1f}"]
    rows = [[*about, _listed(losses, "total")]]
    if any(step["classification"] != step["total"] for step in losses):
        rows.append(["– its classification", *[""] * (len(about) - 1), _listed(losses, "classification")])
    return rows


def _listed(losses: Sequence[Mapping[str, float]], name: str) -> str:
    return " ".join(f"{step[name]:.3g}" for step in losses)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="*", type=Path, help="study files; all shipped ones unless given")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--json", type=Path, help="keep what is finished here, and go on from it")
    add_page(parser)
    given = parser.parse_args()
    kept = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    rows = []
    for path in given.studies or sorted(STUDIES.glob("*.yaml")):
        if path.stem not in kept:
            kept[path.stem] = rows_of(path, given.steps, parse_changes(given.changes))
            print(*kept[path.stem], sep="\n", flush=True)
            if given.json:
                write_atomic(given.json, json.dumps(kept, ensure_ascii=False, indent=1))
        rows += kept[path.stem]
    sheet = Sheet("first_losses")
    sheet.say(f"{machine()}; seconds are of processor time.")
    sheet.table(HEADER, rows)
    sheet.write(given.page)


if __name__ == "__main__":
    main()
