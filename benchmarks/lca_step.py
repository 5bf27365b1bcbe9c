"""What a training step of LCA-DB costs as published and corrected: seconds, peak memory, multiplications.

    python benchmarks/lca_step.py --batch 8 --width 1 --repeats 3

Each variant trains on noise in a process of its own, so that its peak memory is its own; the variants take
turns, and a fixed piece of work is timed in each process, so that the noise of the machine is known. Ratios
are paper / corrected within one turn. Multiplications are counted on tensors without memory; at full width,
eight phases and 16×128×128 the public network's are known to be 352.8 thousand million a case, and 115.9
with the stem that was meant.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from foveate.contract import InputSpec
from foveate.models import build_model, make_criterion
from foveate.models.lca_db import LcaDb

VARIANTS = ("paper", "corrected")
CLASSES = 7


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    batch: int
    width: float
    phases: int
    size: tuple[int, int, int]
    steps: int

    def build(self, variant: str) -> LcaDb:
        spec = InputSpec(tuple(f"phase{index}" for index in range(self.phases)), "3", self.size, 1)
        model = build_model("lca_db10", CLASSES, spec, options={"variant": variant, "width": self.width})
        assert isinstance(model, LcaDb)
        return model


@dataclass(frozen=True)
class Cost:
    """One process of one variant.

    Attributes:
        seconds: of a step, the median over the timed ones.
        memory: MB at its peak above what the process took before the model was built.
        noise: seconds of the fixed work.
    """

    seconds: float
    memory: float
    noise: float


def multiplications(setting: Setting, variant: str) -> float:
    """Thousand million multiplications of a forward pass for one case."""
    with FakeTensorMode(), torch.no_grad():
        model = setting.build(variant).eval()
        case, present = torch.empty(1, setting.phases, *setting.size), torch.ones(1, setting.phases) > 0
        with FlopCounterMode(display=False) as counter:
            model.network(case, present)
    return float(counter.get_total_flops()) / 2e9


def measure(setting: Setting, variant: str) -> Cost:
    """Train a few steps in this process."""
    noise = fixed_work()
    before = peak_memory()
    torch.manual_seed(0)
    model = setting.build(variant).train()
    model.criterion = make_criterion("multiclass", class_counts=[1] * CLASSES)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    shape = (setting.batch, 1, *setting.size)
    views = {name: torch.randn(shape) for name in model.input_spec.views}
    targets = torch.arange(setting.batch) % CLASSES
    times = [step(model, optimizer, views, targets) for _ in range(1 + setting.steps)]
    return Cost(statistics.median(times[1:]), peak_memory() - before, noise)


def step(model: LcaDb, optimizer: torch.optim.Optimizer, views: dict[str, Tensor], targets: Tensor) -> float:
    began = time.perf_counter()
    optimizer.zero_grad()
    model.objective(model(views), targets, progress=0.5)["total"].backward()
    optimizer.step()
    return time.perf_counter() - began


def peak_memory() -> float:
    """MB that this process has held at most; Linux counts in kB, macOS in bytes."""
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def fixed_work() -> float:
    """Seconds for the same convolutions, whatever is being measured."""
    layer, volume = torch.nn.Conv3d(8, 8, 3), torch.zeros(1, 8, 16, 64, 64)
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(4):
            layer(volume)
    return time.perf_counter() - began


def in_own_process(variant: str) -> Cost:
    """Run this script again as a worker with the same arguments."""
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", variant]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cost(**json.loads(found.stdout.splitlines()[-1]))


def show(setting: Setting, costs: dict[str, list[Cost]], console: Console) -> None:
    table = Table("", "G multiplications a case", "seconds a step", "peak memory, MB")
    counts = {variant: multiplications(setting, variant) for variant in VARIANTS}
    for variant in VARIANTS:
        seconds, memory = ([getattr(cost, name) for cost in costs[variant]] for name in ("seconds", "memory"))
        table.add_row(variant, f"{counts[variant]:.1f}", spread(seconds, 2), spread(memory, 0))
    turns = list(zip(*(costs[variant] for variant in VARIANTS), strict=True))
    table.add_row(
        "paper / corrected",
        f"{counts['paper'] / counts['corrected']:.2f}",
        spread([paper.seconds / corrected.seconds for paper, corrected in turns], 2),
        spread([paper.memory / corrected.memory for paper, corrected in turns], 2),
    )
    console.print(table)
    noise = [cost.noise for each in costs.values() for cost in each]
    console.print(f"noise of the machine: the same work took {min(noise):.3f} to {max(noise):.3f} s")


def spread(values: list[float], digits: int) -> str:
    """Median, with the least and the most of the turns."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=float, default=1.0, help="factor on all widths")
    parser.add_argument("--phases", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=3, default=(16, 128, 128), metavar=("D", "H", "W"))
    parser.add_argument("--repeats", type=int, default=3, help="turns of both variants")
    parser.add_argument(
        "--steps", type=int, default=2, help="timed steps of a process, after one that is not"
    )
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given, console = arguments(), Console(width=110, highlight=False)
    setting = Setting(given.batch, given.width, given.phases, tuple(given.size), given.steps)
    if given.worker:
        print(json.dumps(asdict(measure(setting, given.worker))))
        return
    console.print(setting, f"{torch.get_num_threads()} threads")
    costs: dict[str, list[Cost]] = {variant: [] for variant in VARIANTS}
    for _ in range(given.repeats):
        for variant in VARIANTS:
            costs[variant].append(in_own_process(variant))
    show(setting, costs, console)


if __name__ == "__main__":
    main()
