"""Prediction with maps of all classes through an exported file, beside what one would write.

    python benchmarks/inference.py --rounds 5

* ``pytorch-grad-cam``: its Grad-CAM of one class on the eager network in float32.
* ``torch forward``: the eager network alone in float32, without any map.
* ``bare OpenVINO``: the network alone in OpenVINO (bfloat16 where the processor has it), on prepared tensors.
* ``export, prepared``: the same with the maps of all classes, on prepared tensors.
* ``export, pixels``: the whole exported graph, from pixels of that size to calibrated answer and maps.

All take turns, so that the noise of the machine meets them alike; a fixed piece of work is timed in each
round, and ratios are taken within rounds. Then: JPEG files of 512 pixels through ``open_engine``, decoding
included, with a ResNet-18; and how long the command line takes from a cold start. Weights are random: time
does not see them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import timm
import torch
from PIL import Image as Picture
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from foveate.bundle import Bundle, Patients
from foveate.contract import Views
from foveate.engines import open_engine
from foveate.engines.bundled import facts_of
from foveate.explain.cam import class_maps
from foveate.export.graph import to_onnx, traced, write_onnx
from foveate.export.pipeline import Pipeline
from foveate.models import build_model
from foveate.precision import native_bf16
from foveate.preprocess import Preprocess
from foveate.settings import PreprocessConfig
from foveate.types import Case

SIZE, CLASSES = 224, tuple("abcdefgh")


def untrained(architecture: str) -> Bundle:
    """A bundle with random weights."""
    preprocess = Preprocess(PreprocessConfig(size=(SIZE, SIZE)))
    model = build_model(f"timm:{architecture}", len(CLASSES), preprocess.input_spec(("image",))).eval()
    patients = Patients.of([])
    return Bundle(model, f"timm:{architecture}", {}, preprocess, ("image",), "multiclass", CLASSES, patients)


def written(bundle: Bundle, path: Path) -> Path:
    """The bundle as an ONNX file whose bfloat16 counts as tested."""
    facts = facts_of(bundle)
    passed = ("openvino:bf16",) if native_bf16("cpu") else ()
    pipeline = Pipeline(bundle).eval().requires_grad_(False)
    write_onnx(to_onnx(*traced(pipeline, facts), facts), replace(facts, passed=passed), path)
    return path


class Alone(nn.Module):
    """The network on prepared tensors, with or without maps."""

    def __init__(self, bundle: Bundle, *, maps: bool) -> None:
        super().__init__()
        self.model, self.maps = bundle.model, maps

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        views: Views = {"image": batch}
        if not self.maps:
            return (self.model(views).logits,)
        output, maps = class_maps(self.model, views)
        return output.logits, maps["image"]


def in_openvino(module: nn.Module, batch: int) -> Callable[[Any], Any]:
    """A network compiled for one shape of input, as OpenVINO likes it best."""
    example = torch.zeros(batch, 3, SIZE, SIZE)
    with torch.no_grad():
        made = torch.onnx.export(
            torch.export.export(module.eval(), (example,)), dynamo=True, opset_version=20, verbose=False
        )
    assert made is not None
    core = openvino.Core()
    model = core.read_model(made.model_proto.SerializeToString())
    hint = "bf16" if native_bf16("cpu") else "f32"
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    options["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    compiled = core.compile_model(model, "CPU", options)
    return lambda values: compiled([values], share_inputs=True)


def ways(bundle: Bundle, folder: Path, batch: int) -> dict[str, Callable[[], Any]]:
    """What is timed, each for one batch."""
    prepared = torch.randn(batch, 3, SIZE, SIZE)
    eager = timm.create_model("resnet50", num_classes=len(CLASSES)).eval()
    cam = GradCAM(model=eager, target_layers=[eager.layer4[-1]])
    targets = [ClassifierOutputTarget(0)] * batch
    engine: Any = open_engine(written(bundle, folder / "model.onnx"), "openvino")
    bare, with_maps = (in_openvino(Alone(bundle, maps=maps), batch) for maps in (False, True))

    def pixels(side: int) -> Callable[[], Any]:
        values = np.random.default_rng(0).integers(0, 256, (batch, 3, side, side)).astype(np.float32)
        limits = np.array([[0, 255]] * batch, dtype=np.float32)
        return lambda: engine.run({"image": values, "image:range": limits})

    @torch.inference_mode()
    def forward() -> Any:
        return eager(prepared)

    return {
        "pytorch-grad-cam": lambda: cam(input_tensor=prepared, targets=targets),
        "torch forward": forward,
        "bare OpenVINO": lambda: bare(prepared.numpy()),
        "export, prepared": lambda: with_maps(prepared.numpy()),
        f"export, pixels {SIZE}": pixels(SIZE),
        "export, pixels 512": pixels(512),
    }


def fixed_work() -> float:
    """Seconds for the same convolutions, whatever is being compared."""
    layer, images = nn.Conv2d(64, 64, 3), torch.zeros(16, 64, 64, 64)
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(10):
            layer(images)
    return time.perf_counter() - began


def seconds(work: Callable[[], Any], least: float) -> float:
    """Best of the repeats that fit into a time; the machine may be shared."""
    best, began = float("inf"), time.perf_counter()
    while True:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - began > least:
            return best


def compare(bundle: Bundle, folder: Path, batch: int, rounds: int, console: Console) -> None:
    """Time all ways in turn and print milliseconds an image and ratios within rounds."""
    timed = ways(bundle, folder, batch)
    for work in timed.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in timed}
    noise = []
    for _ in range(rounds):
        noise.append(fixed_work())
        for name, work in timed.items():
            found[name].append(seconds(work, 0.5) / batch * 1000)
    table = Table("ResNet-50, 224 pixels", "ms an image", "lowest – highest", "× bare OpenVINO", "grad-cam ÷")
    for name, values in found.items():
        bare = [own / other for own, other in zip(values, found["bare OpenVINO"], strict=True)]
        slow = [other / own for own, other in zip(values, found["pytorch-grad-cam"], strict=True)]
        table.add_row(
            name,
            f"{statistics.median(values):.1f}",
            f"{min(values):.1f} – {max(values):.1f}",
            f"{statistics.median(bare):.2f}",
            f"{statistics.median(slow):.1f}",
        )
    console.print(table)
    console.print(f"fixed work: {min(noise) * 1000:.0f} – {max(noise) * 1000:.0f} ms; batches of {batch}")


def decoding(folder: Path, rounds: int, console: Console, count: int = 128) -> Path:
    """Images a second from JPEG files of 512 pixels, two threads reading ahead of the network."""
    path = written(untrained("resnet18"), folder / "resnet18.onnx")
    draws = np.random.default_rng(0)
    cases = []
    for number in range(count):
        coarse = Picture.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        picture = coarse.resize((512, 512), Picture.Resampling.BICUBIC)
        picture.save(folder / f"{number}.jpg", quality=90)
        cases.append(Case(str(number), str(number), {"image": folder / f"{number}.jpg"}))
    engine = open_engine(path, "openvino")
    rates = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(rounds + 1):
            began = time.perf_counter()
            ready = pool.map(engine.read, cases)
            for _ in range(0, count, 8):
                engine.predict([next(ready) for _ in range(8)])
            rates.append(count / (time.perf_counter() - began))
    console.print(
        f"ResNet-18, JPEG files of 512 pixels, decoding and maps of all classes included: "
        f"{statistics.median(rates[1:]):.0f} images a second ({min(rates[1:]):.0f} – {max(rates[1:]):.0f})"
    )
    return path


def cold(path: Path, image: Path, rounds: int, console: Console) -> None:
    """Seconds of the command line from a cold start."""
    command = [sys.executable, "-c", "from foveate.cli import main; main()"]
    for name, arguments in {
        "foveate --help": ["--help"],
        "foveate predict EXPORT IMAGE": ["predict", str(path), str(image)],
    }.items():
        found = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run([*command, *arguments], check=True, capture_output=True)
            found.append(time.perf_counter() - began)
        console.print(f"{name}: {statistics.median(found):.2f} s ({min(found):.2f} – {max(found):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    console = Console()
    console.print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"OpenVINO {openvino.__version__}, bfloat16 {'native' if native_bf16('cpu') else 'not native'}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare(untrained("resnet50"), folder, options.batch, options.rounds, console)
        path = decoding(folder, options.rounds, console)
        cold(path, folder / "0.jpg", options.rounds, console)


if __name__ == "__main__":
    main()
