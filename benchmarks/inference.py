"""Prediction with maps of all classes through an exported file, beside what one would write.

    python benchmarks/inference.py --rounds 5 [--page docs/performance.md]

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
from torch import Tensor, nn

from foveate.bundle.bundle import Bundle, Patients
from foveate.contract import Views
from foveate.deploy.engines.bundled import facts_of
from foveate.deploy.engines.opening import open_engine
from foveate.deploy.export.graph import to_onnx, traced, write_onnx
from foveate.deploy.export.pipeline import Pipeline
from foveate.device import native_bf16
from foveate.explain.cam import class_maps
from foveate.models import build_model
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.types import Case
from sheet import Noise, Sheet, add_page, machine, spread

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


def seconds(work: Callable[[], Any], least: float) -> float:
    """Best of the repeats that fit into a time; the machine may be shared."""
    best, began = float("inf"), time.perf_counter()
    while True:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - began > least:
            return best


def compare(bundle: Bundle, folder: Path, batch: int, rounds: int, sheet: Sheet) -> None:
    """Time all ways in turn: milliseconds an image, and ratios within rounds."""
    timed, noise = ways(bundle, folder, batch), Noise()
    for work in timed.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        noise.measure()
        for name, work in timed.items():
            found[name].append(seconds(work, 0.5) / batch * 1000)
    bare, slow = found["bare OpenVINO"], found["pytorch-grad-cam"]
    rows = []
    for name, values in found.items():
        dearer = [own / other for own, other in zip(values, bare, strict=True)]
        faster = [other / own for own, other in zip(values, slow, strict=True)]
        rows.append([name, spread(values, 1), spread(dearer, 2), spread(faster, 1)])
    header = ["", "ms an image", "times bare OpenVINO's", "times faster than pytorch-grad-cam"]
    sheet.table(header, rows, title=f"ResNet-50, {SIZE} pixels, batches of {batch}, {rounds} rounds")
    sheet.say(noise.words())


def decoding(folder: Path, rounds: int, sheet: Sheet, count: int = 128) -> Path:
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
    sheet.say(
        "ResNet-18, JPEG files of 512 pixels, decoding and maps of all classes included: "
        f"{spread(rates[1:], 0)} images a second."
    )
    return path


def cold(path: Path, image: Path, rounds: int, sheet: Sheet) -> None:
    """Seconds of the command line from a cold start."""
    command = [sys.executable, "-c", "from foveate.cli.app import main; main()"]
    rows = []
    for name, arguments in {
        "foveate --help": ["--help"],
        "foveate predict EXPORT IMAGE": ["predict", str(path), str(image)],
    }.items():
        found = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run([*command, *arguments], check=True, capture_output=True)
            found.append(time.perf_counter() - began)
        rows.append([f"`{name}`", spread(found, 2)])
    sheet.table(["from a cold start", "seconds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    add_page(parser)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    sheet = Sheet("inference")
    half = "native" if native_bf16("cpu") else "not native"
    sheet.say(f"{machine()}, OpenVINO {openvino.__version__.partition('-')[0]}, bfloat16 {half}.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare(untrained("resnet50"), folder, options.batch, options.rounds, sheet)
        path = decoding(folder, options.rounds, sheet)
        cold(path, folder / "0.jpg", options.rounds, sheet)
    sheet.write(options.page)


if __name__ == "__main__":
    main()
