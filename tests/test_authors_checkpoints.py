"""Checkpoints of LCA-DB's public code: written in its form, loaded as they are, the same logits of a file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose, NormalizeIntensity, Resize
from torch import Tensor

import authors_networks as authors
from foveate.contract import Classifier, InputSpec
from foveate.errors import InputRefused, UsageError
from foveate.io.reading import read_image
from foveate.models import build_model
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig

PHASES = (
    "t2",
    "dwi",
    "in_phase",
    "out_phase",
    "c_pre",
    "c_arterial",
    "c_delay",
    "c_venous",
)  # as it feeds them
SIZE = (16, 64, 96)  # D, H, W: rows and columns differ, so that exchanged axes cannot hide
SPEC = InputSpec(PHASES, "3", SIZE, 1)
WIDTHS = (8, 16, 32, 64)
CLASSES, MOST = 7, 1e-3


Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Kind:
    """A network of the public code, and ours that takes its checkpoints."""

    model: str
    options: Mapping[str, Any]
    forward: Callable[[authors.State, Tensor], Tensor]
    shapes: Callable[[tuple[int, ...]], Shapes]
    parameters: int  # at full width, of the published count
    size: tuple[int, int, int] = SIZE

    @property
    def spec(self) -> InputSpec:
        return InputSpec(PHASES, "3", self.size, 1)


def _head(channels: int, *names: str) -> Shapes:
    found: Shapes = {}
    for name in names or ("bag_classifier",):
        found |= authors.linear_shapes(name, channels, CLASSES)
    return found


def _scores(channels: int, *names: str) -> Shapes:
    found: Shapes = {}
    for name in names:
        found |= authors.mlp_shapes(name, channels, 128, 64, 1)
    return found


def _crossatten(widths: tuple[int, ...]) -> Shapes:
    last = widths[-1]
    both = authors.trunk_shapes("patch_com", widths) | authors.trunk_shapes("compose", widths, stem=last)
    return both | authors.coarse_shapes(last) | _head(last, "bag_classifier", "linear1", "linear2")


def _ra_net(widths: tuple[int, ...]) -> Shapes:
    last = widths[-1]
    return authors.trunk_shapes("compose", widths, bare=True) | authors.coarse_shapes(last) | _head(last)


def _pa_net(widths: tuple[int, ...]) -> Shapes:
    scores = _scores(widths[-1], "attention", "attention_patch_com", "whichatten")  # none is called
    return authors.trunk_shapes("patch_com", widths) | scores | _head(widths[-1])


def _rnet(widths: tuple[int, ...]) -> Shapes:
    widths = tuple(width // 2 for width in widths)
    unused = _scores(512, "attention") | _scores(256, "whichatten")
    unused |= authors.mlp_shapes("modal_attention", 8 * widths[-1], 512, 128, 64)
    return authors.trunk_shapes("resbase", widths, bare=True) | unused | _head(widths[-1])


def _ma(widths: tuple[int, ...]) -> Shapes:
    last = widths[-1]
    both = authors.trunk_shapes("netb", widths) | authors.trunk_shapes("neta", widths, stem=last)
    return both | authors.coarse_shapes(last) | authors.mlp_shapes("bag_classifier", last, last, CLASSES)


def _resmil(widths: tuple[int, ...]) -> Shapes:
    scores = _scores(widths[-1], "attention", "attention_all", "attention_patch_com", "whichatten")
    return authors.trunk_shapes("patch_com", widths, bare=True) | scores | _head(widths[-1])


def _deepganet(widths: tuple[int, ...]) -> Shapes:
    last = widths[-1]
    trunk = authors.trunk_shapes("patch_com", widths, blocks=(1, 2, 2, 2))
    unused = _scores(last, "attention", "attention_patch_com")
    return trunk | unused | authors.linear_shapes("fc.2", last, last) | _head(last)


def _damidl(widths: tuple[int, ...]) -> Shapes:
    return authors.damidl_shapes(widths, CLASSES)


PAPER = {"variant": "paper", "width": 0.125}
KINDS = {
    "crossatten": Kind("lca_db10", PAPER, authors.crossatten, _crossatten, 34_068_757),
    "RA_Net": Kind("lca_db10_image", PAPER, authors.ra_net, _ra_net, 18_809_479),
    "PA_Net": Kind("lca_db10_patch", PAPER, authors.pa_net, _pa_net, 14_572_938),
    "Rnet": Kind("resnet3d10", PAPER | {"width": 0.0625}, authors.rnet, _rnet, 4_831_753),
    "MA": Kind("can3d10", PAPER, authors.ma, _ma, 34_324_231),
    "Resmil": Kind("gated_mil10", {"pooling": "mlp", "width": 0.125}, authors.resmil, _resmil, 14_646_923),
    "deepganet": Kind("deepganet", {"width": 0.125}, authors.deepganet, _deepganet, 33_344_649),
    "DAMIDL": Kind("damidl", PAPER, authors.damidl, _damidl, 37_269_680, (16, 128, 128)),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One lesion: eight phases that differ in nothing but their voxels, wider than high."""
    folder, chance = tmp_path_factory.mktemp("lesion"), np.random.default_rng(0)
    for phase in PHASES:
        x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (57, 41, 11)), indexing="ij")
        lesion = 400 * np.exp(-(((x - 0.4) / 0.3) ** 2 + ((y + 0.2) / 0.5) ** 2 + z**2))
        voxels = 100 + 60 * x + lesion * chance.uniform(-1, 1) + 30 * chance.standard_normal(x.shape)
        image = nibabel.Nifti1Image(voxels.astype(np.int16), np.diag([-0.8, -0.8, 3.0, 1.0]))
        nibabel.save(image, folder / f"{phase}.nii.gz")
    return [folder / f"{phase}.nii.gz" for phase in PHASES]


def _as_authors_read(paths: list[Path], size: tuple[int, int, int]) -> Tensor:
    """``(1, 8, X, Y, Z)``: nibabel's order of axes, then the public code's transforms, of its library."""
    depth, height, width = size
    steps = Compose([Resize((width, height, depth)), NormalizeIntensity()])  # resized by its default, area
    voxels = (nibabel.load(path).get_fdata(dtype=np.float32) for path in paths)
    return torch.stack([steps(each[None]).as_tensor() for each in voxels], dim=1)


def _as_we_read(paths: list[Path], size: tuple[int, int, int]) -> dict[str, Tensor]:
    config = PreprocessConfig(
        size=size, percentiles=(0, 100), keep_aspect=False, resize="area", intensity="zscore"
    )
    prepare = Preprocess(config)
    prepared = {
        name: prepare.prepare(read_image(path), view=name) for name, path in zip(PHASES, paths, strict=True)
    }
    return {name: prepare.normalize(each.tensor[None], view=name) for name, each in prepared.items()}


def _logits(model: Classifier, views: Mapping[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        return model.eval()(views).logits


@each_kind
def test_keys_and_shapes_are_those_of_the_published_network(kind: str) -> None:
    shapes = KINDS[kind].shapes((64, 128, 256, 512))
    learned = [shape for key, shape in shapes.items() if "running" not in key and shape]
    assert sum(torch.Size(shape).numel() for shape in learned) == KINDS[kind].parameters


@pytest.mark.slow
@each_kind
def test_a_checkpoint_gives_the_authors_logits_of_the_same_files(
    kind: str, volumes: list[Path], tmp_path: Path
) -> None:
    published = KINDS[kind]
    state = authors.draw_state(published.shapes(WIDTHS))
    path = tmp_path / "2024-01-31_12_00_00.pth"
    authors.save_checkpoint(path, state, parallel=kind == "crossatten")
    model = build_model(
        published.model, CLASSES, published.spec, pretrained=str(path), options=published.options
    )
    theirs = _as_authors_read(volumes, published.size)
    with torch.inference_mode():
        expected = published.forward(state, theirs)
    found = _logits(model, _as_we_read(volumes, published.size))
    scale = expected.abs().max()
    assert (found - expected).abs().max() <= MOST * scale
    same = theirs.permute(0, 1, 4, 3, 2)  # without the cache's rounding
    exact = _logits(model, {name: same[:, [index]] for index, name in enumerate(PHASES)})
    assert (exact - expected).abs().max() <= 1e-5 * scale
    wrong = {key: value.mT if value.ndim == 5 else value for key, value in state.items()}
    with torch.inference_mode():
        other = published.forward(wrong, theirs)
    assert (other - expected).abs().max() > 10 * MOST * scale, "exchanged axes would not be seen here"


@each_kind
def test_weights_of_our_own_stay_as_they_are(kind: str, tmp_path: Path) -> None:
    published = KINDS[kind]
    torch.manual_seed(3)
    model = build_model(published.model, CLASSES, published.spec, options=published.options)
    torch.save(model.state_dict(), tmp_path / "ours")  # without an ending, too
    again = build_model(
        published.model, CLASSES, published.spec, pretrained=str(tmp_path / "ours"), options=published.options
    )
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@each_kind
def test_another_number_of_classes_keeps_all_but_the_classifiers(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published, path = KINDS[kind], tmp_path / "fold1.pth"
    state = authors.draw_state(published.shapes(WIDTHS))
    authors.save_checkpoint(path, state)
    whole, part = (
        build_model(
            published.model, classes, published.spec, pretrained=str(path), options=published.options
        ).state_dict()
        for classes in (CLASSES, 2)
    )
    differ = {key for key in whole if whole[key].shape != part[key].shape}
    assert differ and all(whole[key].shape[0] == CLASSES for key in differ)
    assert all(torch.equal(whole[key], part[key]) for key in whole.keys() - differ)
    assert all(key in caplog.text for key in differ)


def test_a_key_that_no_part_has_and_the_wrong_variant_are_told(tmp_path: Path) -> None:
    state = authors.draw_state(_crossatten(WIDTHS))
    authors.save_checkpoint(tmp_path / "more.pth", state | {"conv4.weight": torch.ones(1)})
    authors.save_checkpoint(tmp_path / "paper.pth", state)
    with pytest.raises(UsageError, match=r"conv4\.weight"):
        build_model("lca_db10", CLASSES, SPEC, pretrained=str(tmp_path / "more.pth"), options=PAPER)
    with pytest.raises(UsageError, match="variant: paper"):
        build_model(
            "lca_db10", CLASSES, SPEC, pretrained=str(tmp_path / "paper.pth"), options={"width": 0.125}
        )


class _Runs:
    """What a pickle would run if it were let."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"a": torch.ones(1)}, "best_f1": _Runs()},
        {"epoch": 3, "best_f1": np.float64(0.5)},
        {"model": {"a": np.array([1.0])}},
    ],
    ids=["code", "no weights", "array"],
)
def test_nothing_but_weights_and_numbers_is_read(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "file.pth", pickle_module=pickle)
    before = set(map(str, torch.serialization.get_safe_globals()))
    with pytest.raises(InputRefused) as caught:
        build_model("lca_db10", CLASSES, SPEC, pretrained=str(tmp_path / "file.pth"), options=PAPER)
    assert caught.value.code == "weights-unreadable" and not (tmp_path / "it-ran").exists()
    assert set(map(str, torch.serialization.get_safe_globals())) == before
