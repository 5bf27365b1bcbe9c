"""Which convolutions of every registered network this machine computes wrong in bfloat16.

    python benchmarks/gradients.py [--page docs/performance.md]
    ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 python benchmarks/gradients.py   # kernels of a processor without AMX

Each network is built as published (pictures of 224 pixels; eight phases of 16×128×128) from random weights; a
batch of noise tells its distinct convolutions, each of which is checked as before a training. The cosine is
that of the whole gradient of one batch in bfloat16, computed with what was found, with float32's: below 0.95
a training takes float32. Networks whose step takes longer than ``--patience`` seconds have no cosine.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter

import torch

from foveate.contract import Classifier, InputSpec
from foveate.errors import UsageError
from foveate.models import MODELS, build_model, make_criterion
from foveate.study.study import TrainConfig
from foveate.train.feed import Batch
from foveate.train.step import Choice
from foveate.train.tuning.convolution import WAYS
from foveate.train.tuning.kernel_check import KernelCheck
from foveate.train.tuning.trials import TrialBench
from sheet import Sheet, add_page, machine

CLASSES = 5
PHASES = tuple(f"phase{index}" for index in range(8))
SPECS = (
    InputSpec(("image",), "2", (224, 224)),
    InputSpec(("clinical", "ultrasound"), "2", (224, 224)),
    InputSpec(PHASES, "3", (16, 128, 128), 1),
)
CPU = torch.device("cpu")


def build(name: str, **options: object) -> Classifier:
    """The network with the first of the inputs above that it takes."""
    for spec in SPECS:
        try:
            model = build_model(name, CLASSES, spec, options=options)
        except UsageError:
            continue
        counts = [1] * CLASSES
        model.criterion = make_criterion("multiclass", class_counts=counts)
        model.learn_counts("multiclass", counts)
        return model
    raise SystemExit(f"{name} takes none of the inputs of this benchmark")


def noise(model: Classifier, size: int) -> Batch:
    """A batch of normal numbers."""
    torch.manual_seed(0)
    spec = model.input_spec
    views = {name: torch.randn(size, spec.channels, *spec.size) for name in spec.views}
    return Batch(views, torch.arange(size) % CLASSES, tuple(map(str, range(size))))


def row(name: str, given: argparse.Namespace) -> list[str]:
    """What was found out about one network."""
    model = build(name)
    size = given.volumes if model.input_spec.dimensions == "3" else given.batch
    batch, half = noise(model, size), Choice(half=True)
    began = time.perf_counter()
    seen = TrialBench(model, batch, TrainConfig(), CPU).convolutions(half)
    noted = time.perf_counter() - began
    kernels = KernelCheck(CPU)
    verdicts = kernels.verdicts(seen)
    wrong = {shape: verdict.way for shape, verdict in verdicts.items() if verdict.way != "library"}
    counts = Counter(wrong.values())
    cosine = "not asked"
    if noted < given.patience:
        cosine = f"{Bench(model, batch, TrainConfig(), CPU, ways=wrong).cosine(half):.3f}"
    told = ", ".join(f"{count} {WAYS[way]}" for way, count in counts.items()) or "–"
    return [name, f"{sum(seen.values())}", f"{len(seen)}", told, f"{kernels.seconds:.1f}", cosine]


def main() -> None:
    """Scan all, and write the section."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4, help="pictures or pairs of a batch")
    parser.add_argument("--volumes", type=int, default=2, help="cases of a batch of volumes")
    parser.add_argument("--patience", type=float, default=20, help="seconds of a forward pass")
    parser.add_argument("--only", nargs="*", default=list(MODELS), help="names of networks")
    add_page(parser)
    given = parser.parse_args()
    rows = []
    for name in given.only:
        rows.append(row(name, given))
        print(rows[-1], flush=True)
    sheet = Sheet("gradients")
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    kernels = f"; kernels up to {limit} alone (ONEDNN_MAX_CPU_ISA)" if limit else ""
    sizes = f"batches of {given.batch} pictures and of {given.volumes} cases of volumes"
    sheet.say(f"{machine()}{kernels}; {sizes}.")
    sheet.table(["network", "convolutions", "distinct", "computed another way", "s to check", "cosine"], rows)
    sheet.write(given.page)


if __name__ == "__main__":
    main()
