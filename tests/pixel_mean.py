"""An exported model that can be worked by hand, and an archive for it.

The model answers with the mean brightness: its logits are ``(m, 1 - m)`` with m the mean of all pixels over
255, and its map of the first class is the image in 2 × 2 cells over 255, of the second class its negative. It
is made with ``onnx`` alone, so that opening it costs no torch.
"""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image as Picture

from foveate.deploy.archive import streaming, workers
from foveate.deploy.archive.ray import ShardPredictor
from foveate.deploy.archive.work import ArchiveJob
from foveate.deploy.engines.facts import KEY, Facts
from foveate.io.reading import read_image
from foveate.study.settings import PreprocessConfig
from foveate.types import Image

SIDE = 8
CLASSES = ("bright", "dark")
FACTS = Facts(
    task="multiclass",
    classes=CLASSES,
    views=("image",),
    tolerates_missing=False,
    model="pixel_mean",
    preprocess=PreprocessConfig(size=(SIDE, SIDE), window=(0, 255)),
    explainer="gradcam",
)


def write_model(path: Path, facts: Facts = FACTS) -> Path:
    """Write the model."""
    nodes = [
        helper.make_node("Div", ["image", "full"], ["unit"]),
        helper.make_node("ReduceMean", ["unit", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one_axis"], ["m"]),
        helper.make_node("Sub", ["one", "m"], ["rest"]),
        helper.make_node("Concat", ["m", "rest"], ["logits"], axis=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("Sub", ["probabilities", "half"], ["decision"]),
        helper.make_node("AveragePool", ["unit"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Neg", ["cells"], ["negative"]),
        helper.make_node("Concat", ["cells", "negative"], ["maps:image"], axis=1),
    ]
    constants = {"full": 255.0, "one": 1.0, "half": 0.5}
    values = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in constants.items()]
    values += [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])]
    values += [helper.make_tensor("one_axis", TensorProto.INT64, [1], [1])]
    names = ("logits", "probabilities", "decision", "maps:image")
    graph = helper.make_graph(
        nodes,
        "pixel_mean",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", "c", "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        values,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {KEY: facts.to_text()})
    onnx.save(model, path)
    return path


@dataclass(frozen=True)
class Pictures:
    """Grey pictures of noise and a manifest of them.

    Attributes:
        folder: that holds both.
        pixels: by case, ``(8, 8)`` uint8.
        bad: cases whose file is none.
    """

    folder: Path
    pixels: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    bad: tuple[str, ...] = ()

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.csv"

    def logits(self, case_id: str) -> tuple[float, float]:
        """By hand."""
        mean = float(self.pixels[case_id].mean()) / 255
        return mean, 1 - mean


def write_pictures(folder: Path, count: int, *, bad: Sequence[int] = ()) -> Pictures:
    """So many pictures, two of each patient; the bad ones are torn in the middle of the file."""
    (folder / "images").mkdir(parents=True)
    chance = np.random.default_rng(0)
    pictures = Pictures(folder, bad=tuple(f"c{number:03d}" for number in bad))
    rows = [["case_id", "patient_id", "label", "image"]]
    for number in range(count):
        name, path = f"c{number:03d}", folder / "images" / f"{number:03d}.png"
        pictures.pixels[name] = chance.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Picture.fromarray(pictures.pixels[name]).save(path)
        if number in bad:
            path.write_bytes(path.read_bytes()[:40])
        rows.append([name, f"p{number // 2}", CLASSES[number % 2], f"images/{path.name}"])
    with pictures.manifest.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return pictures


DEADLY = "030.png"
_serve = workers._serve


def serve_deadly(job: ArchiveJob, pipe: Any) -> None:
    """A worker that no exception but a signal ends when it reads a certain file."""

    def read(path: Path, **options: Any) -> Image:
        if path.name == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_image(path, **options)

    streaming.read_image = read  # type: ignore[assignment]  # in a process of its own
    _serve(job, pipe)


class DyingOnce(ShardPredictor):
    """An actor that is killed in the middle of its second shard, with that shard's table on disk already."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        marker = self.job.base / "died"
        if any(self.job.work.glob("*.done.json")) and not marker.exists():
            marker.touch()
            shard = int(batch["shard"][0])
            self.job.part(shard).write_text("torn")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)
