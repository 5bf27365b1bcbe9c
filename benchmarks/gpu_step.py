"""What share of a training step is arithmetic: where the rest of its time goes, on a GPU or a processor.

    python benchmarks/gpu_step.py --model resnet50 --size 224 --batch 32
    python benchmarks/gpu_step.py --device cpu --model resnet18 --size 128

Times, for each way to compute a step, the whole step and its parts (batch to the device, augmentation,
normalization, forward with the loss, backward, norm of the gradient, optimizer), each waited for.
*Arithmetic* is forward, backward and optimizer, of a batch that is there already. The rate reached is told
too: multiplications and additions as counted by torch over the seconds of forward and backward, beside that
of one large matrix product of the same precision, which is what the hardware can be got to do. Ways take
turns, and the fastest of each part counts.

On a GPU this compares bfloat16 and float32 (TF32), channels last and first, eager and compiled. Without one
it runs on the processor, which shows that the code runs and says nothing about GPUs.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.utils.flop_counter import FlopCounterMode

from foveate.contract import InputSpec
from foveate.data.augment import augment_views, draw_variation
from foveate.device import channels_last
from foveate.models import build_model
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import AugmentConfig, PreprocessConfig
from foveate.study.study import TrainConfig
from foveate.train.optim import make_optimizer
from foveate.train.step import Choice, TrainingStep
from sheet import Noise, Sheet, add_page, machine

CLASSES = 5
ARITHMETIC = ("forward", "backward", "optimizer")


@dataclass
class Clock:
    """Seconds of the parts of a step, each waited for."""

    device: torch.device
    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = self.now()
        yield
        self.parts[name].append(self.now() - began)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def fastest(self) -> dict[str, float]:
        return {name: min(times) for name, times in self.parts.items()}


class Step:
    """One way to compute a step, with images in host memory as the cache gives them."""

    def __init__(self, choice: Choice, given: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(0)
        self.choice, self.device, self.clock = choice, device, Clock(device)
        spec = InputSpec(("image",), "2", (given.size, given.size), 3)
        model = build_model(f"timm:{given.model}", CLASSES, spec).to(device).train()
        model.criterion = torch.nn.functional.cross_entropy
        self.model, self.step = model, TrainingStep(model, choice, device.type)
        self.optimizer = make_optimizer(model, TrainConfig(), device)
        self.preprocess = Preprocess(PreprocessConfig(size=(given.size, given.size)))
        self.images = torch.rand(given.batch, 3, given.size, given.size).half()
        self.images = self.images.pin_memory() if device.type == "cuda" else self.images
        self.targets = torch.randint(0, CLASSES, (given.batch,), device=device)
        self.draws = [draw_variation(AugmentConfig(), 0, 0, place) for place in range(given.batch)]

    def once(self) -> None:
        part = self.clock.part
        with part("whole step"):
            with part("to the device"):
                images = self.images.to(self.device, non_blocking=True).float()
            with part("augmentation"):
                images = augment_views({"image": images}, {"image": self.draws})["image"]
            with part("normalization"):
                images = channels_last(self.preprocess.normalize(images, "image"))
            self.optimizer.zero_grad()
            with part("forward"):
                loss = self.loss(images)
            with part("backward"):
                loss.backward()
            with part("norm"):
                float(
                    get_total_norm([item.grad for item in self.model.parameters() if item.grad is not None])
                )
            with part("optimizer"):
                self.optimizer.step()

    def loss(self, images: Tensor) -> Tensor:
        return self.step({"image": images}, self.targets, 0.0)["total"]

    def operations(self) -> int:
        """Floating-point operations of forward and backward, two for a multiplication with its addition."""
        images = channels_last(self.images.to(self.device).float())
        with FlopCounterMode(display=False) as counter:
            self.loss(images).backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops()


def ways() -> list[Choice]:
    """The usual way first."""
    half = Choice(half=True)
    return [half, Choice(), Choice(half=True, channels_last=False)]


def best_rate(device: torch.device, half: bool) -> float:
    """Operations a second of a large matrix product, the fastest of a few."""
    side = 8192 if device.type == "cuda" else 2048
    values = torch.randn(side, side, device=device, dtype=torch.bfloat16 if half else torch.float32)
    clock = Clock(device)
    for _ in range(5):
        with clock.part("product"):
            torch.mm(values, values)
    return 2 * side**3 / clock.fastest()["product"]


def measure(steps: list[Step], turns: int) -> None:
    """All ways in turn; what the first steps took (compiling, choosing kernels) does not count."""
    for step in steps:
        for _ in range(2):
            step.once()
        step.clock.parts.clear()
    for _ in range(turns):
        for step in steps:
            step.once()


def show(steps: list[Step], operations: int, sheet: Sheet) -> None:
    """One column for each way."""
    found = [step.clock.fastest() for step in steps]
    rows = [[name, *(f"{1e3 * parts[name]:.2f}" for parts in found)] for name in found[0]]
    shares = [sum(parts[name] for name in ARITHMETIC) / parts["whole step"] for parts in found]
    rates = [operations / (parts["forward"] + parts["backward"]) for parts in found]
    best = {half: best_rate(steps[0].device, half) for half in (True, False)}
    reached = [rate / best[step.choice.half] for rate, step in zip(rates, steps, strict=True)]
    rows += [
        ["share that is arithmetic", *(f"{share:.0%}" for share in shares)],
        ["10¹² operations a second", *(f"{rate / 1e12:.2f}" for rate in rates)],
        ["share of a matrix product's", *(f"{share:.0%}" for share in reached)],
    ]
    sheet.table(["ms", *(step.choice.words() for step in steps)], rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50", help="a timm architecture")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_page(parser)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    device, sheet = torch.device(given.device), Sheet("gpu_step")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
    sheet.say(f"{name}; {given.model}, {given.size} pixels, batches of {given.batch}.")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for products; convolutions have it by default
    noise = Noise(device, torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    noise.measure()
    steps = [Step(choice, given, device) for choice in ways()]
    operations = steps[0].operations()
    measure(steps, given.turns)
    noise.measure()
    show(steps, operations, sheet)
    sheet.say(noise.words())
    sheet.write(given.page)


if __name__ == "__main__":
    main()
