"""What LCA-DB costs: the published network as its authors ran it, and ours as this machine runs it best.

    python benchmarks/lca_step.py --batch 4 --repeats 3 [--page docs/performance.md]

Three ways take turns: ``published`` (variant ``paper``, float32), ``corrected`` (float32), and ``fast``: the
corrected variant under bfloat16 autocast with channels last, as training does where processors have it. Each
turn is two processes, so that each has a peak memory of its own: forward passes as in prediction (where the
fast way keeps what it frees, as every prediction from a bundle does), and training steps with Adam, on noise.
The same fixed work is timed in each, so that the noise of the machine is known; ratios are published / fast
within one turn, in seconds of the clock and of the processor, which others on the machine disturb less.
Multiplications are counted on tensors without memory; at full width, eight phases and 16×128×128 the public
network's are known to be 352.8 thousand million a case, and 115.9 with the stem that was meant. The published
batch of 8 needs 21 GB in the published network.

Last: how far bfloat16 moves the corrected network's answers and gradients, on one batch.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from foveate.contract import InputSpec
from foveate.device import channels_last, keep_freed_memory, native_bf16
from foveate.models import build_model, make_criterion
from foveate.models.lca_db.network import LcaDb
from foveate.models.lca_db.objective import LcaOutput
from foveate.train.tuning.convolution import Convolution, RoutedConvolutions
from foveate.train.tuning.convolution import Way as KernelWay
from foveate.train.tuning.kernel_check import KernelCheck
from sheet import Sheet, add_page, machine, spread, wandered

CLASSES = 7
Views = dict[str, Tensor]


@dataclass(frozen=True)
class Way:
    """One way to run the network."""

    variant: str
    half: bool


WAYS = {
    "published": Way("paper", half=False),
    "corrected": Way("corrected", half=False),
    "fast": Way("corrected", half=True),
}


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
        model.criterion = make_criterion("multiclass", class_counts=[1] * CLASSES)
        return model

    def views(self) -> Views:
        names = [f"phase{index}" for index in range(self.phases)]
        return {name: torch.randn(self.batch, 1, *self.size) for name in names}

    def targets(self) -> Tensor:
        return torch.arange(self.batch) % CLASSES


@dataclass(frozen=True)
class Cost:
    """One turn of one way; times are medians over the timed passes.

    Attributes:
        forward, step: seconds of the clock of a batch, in prediction and in training.
        forward_cpu, step_cpu: the same in seconds of the processor, all threads together.
        forward_memory, step_memory: MB at the peak above what the process took before the model was built.
        noise: seconds of the fixed work.
    """

    forward: float
    forward_cpu: float
    forward_memory: float
    step: float
    step_cpu: float
    step_memory: float
    noise: float


@dataclass(frozen=True)
class Agreement:
    """How far the fast way is from the corrected one in float32, of the same weights.

    Attributes:
        probability: largest difference in prediction.
        attention: largest difference of an attention weight, in multiples of the uniform one.
        loss: relative difference of a training step's.
        gradient: cosine between both gradients over all parameters.
    """

    probability: float
    attention: float
    loss: float
    gradient: float


def multiplications(setting: Setting, variant: str) -> float:
    """Thousand million multiplications of a forward pass for one case."""
    with FakeTensorMode(), torch.no_grad():
        model = setting.build(variant).eval()
        case, present = torch.empty(1, setting.phases, *setting.size), torch.ones(1, setting.phases) > 0
        with FlopCounterMode(display=False) as counter:
            model.network(case, present)
    return float(counter.get_total_flops()) / 2e9


def measure(setting: Setting, way: Way, what: str) -> dict[str, float]:
    """Predict, or train, a few times in this process: the figures of ``Cost`` that begin with ``what``."""
    noise = fixed_work()
    before = peak_memory()
    torch.manual_seed(0)
    model = setting.build(way.variant)
    views = arranged(model, setting.views(), way.half)
    if what == "forward":
        if way.half:
            keep_freed_memory()
        clock, processor = timed(lambda: predict(model, views, way.half), setting.steps)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            learn(model, views, setting.targets(), way.half)
            optimizer.step()

        clock, processor = timed(step, setting.steps)
    memory = peak_memory() - before
    return {what: clock, f"{what}_cpu": processor, f"{what}_memory": memory, "noise": noise}


def timed(work: Callable[[], object], passes: int) -> tuple[float, float]:
    """Seconds of the clock and of the processor, medians after one pass that is not timed."""
    work()
    found = []
    for _ in range(passes):
        began = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    clock, processor = zip(*found, strict=True)
    return statistics.median(clock), statistics.median(processor)


def arranged(model: nn.Module, views: Views, half: bool) -> Views:
    """Weights and views in the memory format of the way."""
    if not half:
        return views
    for parameter in model.parameters():
        parameter.data = channels_last(parameter.data)
    return {name: channels_last(view) for name, view in views.items()}


def predict(model: LcaDb, views: Views, half: bool) -> LcaOutput:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        found: LcaOutput = model.eval()(views)
        return found


def learn(model: LcaDb, views: Views, targets: Tensor, half: bool) -> float:
    """One forward and backward pass; the loss."""
    model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=half), RoutedConvolutions(ways(model, views, half)):
        loss = model.objective(model(views), targets, progress=0.5)["total"]
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


_known: dict[tuple[int, bool], dict[Convolution, KernelWay]] = {}


def ways(model: LcaDb, views: Views, half: bool) -> dict[Convolution, KernelWay]:
    """How this processor computes each convolution right, found out once before anything is timed."""
    key = id(model), half
    if key not in _known:
        half_precision = torch.autocast("cpu", torch.bfloat16, enabled=half)
        with torch.no_grad(), half_precision, RoutedConvolutions({}) as noted:
            model(views)
        found = KernelCheck(torch.device("cpu")).verdicts(noted.seen) if half else {}
        _known[key] = {shape: verdict.way for shape, verdict in found.items() if verdict.way != "library"}
    return _known[key]


def agreement(setting: Setting) -> Agreement:
    """Run one batch in both precisions."""
    found = {half: _one_batch(setting, half) for half in (False, True)}
    (exact, exact_loss, exact_gradient), (close, close_loss, close_gradient) = found[False], found[True]
    moved = [(exact.weights[name] - close.weights[name]).abs() for name in exact.weights]
    return Agreement(
        probability=(exact.logits.softmax(1) - close.logits.softmax(1)).abs().max().item(),
        attention=max((each.max() * each.shape[1]).item() for each in moved),
        loss=abs(close_loss - exact_loss) / exact_loss,
        gradient=torch.cosine_similarity(exact_gradient, close_gradient, dim=0).item(),
    )


def _one_batch(setting: Setting, half: bool) -> tuple[LcaOutput, float, Tensor]:
    """Answers in prediction, and loss and all gradients in training, of the corrected variant."""
    torch.manual_seed(0)
    model = setting.build("corrected")
    views = arranged(model, setting.views(), half)
    loss = learn(model, views, setting.targets(), half)  # first: batch norm learns its averages
    gradients = [p.grad.flatten().double() for p in model.parameters() if p.grad is not None]
    return predict(model, views, half), loss, torch.cat(gradients)


def peak_memory() -> float:
    """MB that this process has held at most; Linux counts in kB, macOS in bytes."""
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def fixed_work() -> float:
    """Seconds for the same convolutions, whatever is being measured; also loads what every way needs."""
    layer, volume = nn.Conv3d(8, 8, 3), torch.zeros(1, 8, 16, 64, 64)
    layer(volume).sum().backward()
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(8):
            layer(volume)
    return time.perf_counter() - began


def turn(way: str) -> Cost:
    """Both processes of a way."""
    forward, step = (in_own_process(way, what) for what in ("forward", "step"))
    return Cost(**(forward | step | {"noise": (forward["noise"] + step["noise"]) / 2}))


def in_own_process(*task: str) -> dict[str, float]:
    """Run this script again as a worker with the same arguments."""
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", *task]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(found.stdout.splitlines()[-1]))


def show(setting: Setting, costs: dict[str, list[Cost]], sheet: Sheet) -> None:
    header = ("of a batch", "G multiplications a case", "forward, s", "forward, MB", "step, s", "step, MB")
    sheet.table(header, list(figures(setting, costs)))
    turns = list(zip(costs["published"], costs["fast"], strict=True))
    rows = []
    for what, end in (("time", ""), ("processor time", "_cpu"), ("peak memory", "_memory")):
        kinds = [
            [getattr(slow, kind + end) / getattr(fast, kind + end) for slow, fast in turns]
            for kind in ("forward", "step")
        ]
        rows.append([what, *(spread(kind, 1) for kind in kinds)])
    sheet.table(["published / fast", "forward", "training step"], rows)
    sheet.say(wandered([cost.noise for each in costs.values() for cost in each]))


def figures(setting: Setting, costs: dict[str, list[Cost]]) -> Iterator[list[str]]:
    """What each way took."""
    counts = {variant: multiplications(setting, variant) for variant in ("paper", "corrected")}
    for name, found in costs.items():
        cells = [
            spread([getattr(cost, field) for cost in found], digits)
            for field, digits in (("forward", 2), ("forward_memory", 0), ("step", 2), ("step_memory", 0))
        ]
        yield [name, f"{counts[WAYS[name].variant]:.1f}", *cells]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=float, default=1.0, help="factor on all widths")
    parser.add_argument("--phases", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=3, default=(16, 128, 128), metavar=("D", "H", "W"))
    parser.add_argument("--repeats", type=int, default=3, help="turns of all ways")
    parser.add_argument(
        "--steps", type=int, default=2, help="timed passes of a process, after one that is not"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    add_page(parser)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    setting = Setting(given.batch, given.width, given.phases, tuple(given.size), given.steps)
    if given.worker:
        way, *what = given.worker
        found = asdict(agreement(setting)) if way == "agreement" else measure(setting, WAYS[way], *what)
        print(json.dumps(found))
        return
    sheet = Sheet("lca_step")
    bf16 = "native" if native_bf16("cpu") else "not native: the fast way pretends, and is slow"
    shape = f"{setting.phases} phases of {'×'.join(map(str, setting.size))}, width {setting.width:g}"
    sheet.say(f"{machine()}, bfloat16 {bf16}. Batches of {setting.batch}, {shape}; {given.repeats} turns.")
    ways = list(dict.fromkeys(["published", *given.ways, "fast"]))
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(given.repeats):
        for way in ways:
            costs[way].append(turn(way))
    show(setting, costs, sheet)
    close = Agreement(**in_own_process("agreement"))
    named = ", ".join(f"{field.name} {getattr(close, field.name):.3g}" for field in fields(close))
    sheet.say(f"Fast beside corrected, on one batch: {named}.")
    sheet.write(given.page)


if __name__ == "__main__":
    main()
