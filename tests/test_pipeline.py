"""The exportable pipeline, part by part, against what training and prediction use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from foveate.bundle.novelty import NoveltyScore
from foveate.contract import Classifier, given
from foveate.deploy.export.fitted import CalibrationModule, Novelty
from foveate.deploy.export.pipeline import _as_half, check_exportable, prepared
from foveate.errors import UsageError
from foveate.evaluate.probabilities.calibrators import Calibrator, Method
from foveate.explain.cam import class_maps, needs_no_gradients
from foveate.explain.explainers import explain_batch
from foveate.models import build_model
from foveate.prepare.geometry import FieldOfView
from foveate.prepare.pixels import chosen_pixels
from foveate.prepare.preprocess import Preprocess
from foveate.prepare.resample import to_field
from foveate.study.settings import PreprocessConfig
from foveate.types import Array, Geometry, Image, Task
from tiny_classifiers import PlacesCnn, PooledCnn, TwoViewCnn, images
from tiny_volumes import MeanOfViews

SHAPES = ((40, 56), (56, 40), (24, 24), (11, 70), (97, 90), (32, 32))


def image_of(pixels: Array) -> Image:
    limits = (0.0, 255.0) if pixels.dtype == np.uint8 else None
    return Image(pixels, Geometry(pixels.shape[1:]), "noise", "0" * 64, value_range=limits)


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"keep_aspect": False},
        {"resize": "area"},
        {"colour": "grey"},
        {"window": (30.0, 180.0)},
        {"size": (24, 40)},
        {"size": (21, 40), "resize": "area"},
        {"percentiles": (2, 90)},
    ],
    ids=str,
)
def test_pixels_are_prepared_as_in_training(settings: dict[str, Any]) -> None:
    config = PreprocessConfig.model_validate({"size": (32, 32), **settings})
    preprocess = Preprocess(config)
    for number, shape in enumerate(SHAPES):
        dtype = np.int16 if "percentiles" in settings else np.uint8
        image = image_of(noise(1 if number % 2 else 3, *shape, dtype=dtype, seed=number))
        limits = torch.tensor([preprocess.limits(image)])
        found = prepared(torch.from_numpy(image.pixels.astype(np.float32))[None], limits, config)
        expected = preprocess.prepare(image).tensor.float()
        np.testing.assert_allclose(
            preprocess.normalize(found)[0], preprocess.normalize(expected[None])[0], atol=3e-3
        )
        fine = (expected >= 1 / 32).expand_as(found[0])  # darker ones are rounded a little more coarsely
        exact = (found[0] == expected.expand_as(found[0]))[fine].float().mean()
        assert exact > 0.995, "rounding may fall to the other side here and there, no more"


def test_padding_of_an_odd_aspect_is_that_of_the_resampler() -> None:
    config = PreprocessConfig(size=(20, 30))
    for shape in [(31, 50), (50, 31), (47, 47), (90, 11), (33, 77), (41, 10)]:
        values = torch.rand(1, *shape)
        expected = to_field(values.numpy(), FieldOfView.of(shape, config))
        found = prepared(values[None], torch.tensor([[0.0, 1.0]]), config)[0, :1]
        np.testing.assert_allclose(found, expected, atol=3e-4)


def test_volumes_are_prepared_as_in_training() -> None:
    config = PreprocessConfig(size=(6, 16, 16))
    preprocess = Preprocess(config)
    for shape in ((9, 20, 31), (3, 40, 12), (6, 16, 16)):
        image = image_of(noise(1, *shape))
        found = prepared(torch.from_numpy(image.pixels).float()[None], torch.tensor([[0.0, 255.0]]), config)
        np.testing.assert_allclose(found[0], preprocess.prepare(image).tensor.float(), atol=5e-4)


def test_slices_keep_their_neighbours_as_channels() -> None:
    config = PreprocessConfig(size=(16, 16), neighbours=1, colour="grey")
    image = image_of(noise(1, 5, 20, 31))
    pixels = torch.from_numpy(chosen_pixels(image, config, 4)).float()[None]
    found = prepared(pixels, torch.tensor([[0.0, 255.0]]), config)
    expected = Preprocess(config).prepare(image, slice_index=4).tensor.float()
    assert found.shape == (1, 3, 16, 16)
    np.testing.assert_allclose(found[0], expected, atol=5e-4)


def test_a_view_that_is_missing_stays_missing() -> None:
    config = PreprocessConfig(size=(8, 8))
    pixels = torch.full((2, 1, 12, 9), 100.0)
    pixels[1] = torch.nan
    found = prepared(pixels, torch.tensor([[0.0, 255.0]] * 2), config)
    assert given(found)[1].tolist() == [True, False]


def test_rounding_is_that_of_float16() -> None:
    values = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    normal = values[values >= 2**-14]
    assert torch.equal(_as_half(normal), normal.half().float())
    assert (_as_half(values) - values.half().float()).abs().max() <= 2**-25


@pytest.mark.parametrize("settings", [{"organ_crop": True}, {"mask": "otsu_dark"}], ids=str)
def test_what_no_graph_can_hold_is_refused_with_the_reason(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be put into a graph: it"):
        check_exportable(PreprocessConfig.model_validate(settings), "image")


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_calibration_is_that_of_the_bundle(task: Task, method: Method) -> None:
    draws = np.random.default_rng(0)
    logits = draws.normal(0, 2, (200, 3))
    truth = np.eye(3)[(logits + draws.normal(0, 3, logits.shape)).argmax(axis=1)]
    if task == "multilabel":
        truth[:, 2] = 0  # never present: nothing can be fitted
    calibrator = Calibrator.fit(logits, truth, task=task, method=method)
    assert calibrator.fitted
    new = draws.normal(0, 4, (300, 3))
    found = CalibrationModule(calibrator)(torch.from_numpy(new).float())
    np.testing.assert_allclose(found, calibrator.apply(new), atol=2e-5)
    if task == "multilabel":
        assert found[:, 2].isnan().all()


def test_novelty_is_that_of_the_bundle() -> None:
    model = PooledCnn().eval()
    batch = {"image": images(40, 16, 16)}
    with torch.no_grad():
        output = model(batch)
        pooled = output.features["map"].flatten(2).mean(dim=2).double().numpy()
        score = NoveltyScore.fit(pooled, np.arange(40) % 4)
        found = Novelty(score)(model, output, batch)
    np.testing.assert_allclose(found, score.score(pooled), rtol=1e-3)


@pytest.mark.parametrize(
    ("model", "size"),
    [(PooledCnn(), 16), (PooledCnn(declare=False), 16), (PlacesCnn(), 8), (TwoViewCnn(), 16)],
    ids=["linear", "undeclared", "places", "views"],
)
def test_maps_of_all_classes_in_one_pass_are_grad_cams(model: Classifier, size: int) -> None:
    model.eval()
    views = {view: images(3, size, size, seed=k) for k, view in enumerate(model.input_spec.views)}
    output, maps = class_maps(model, views)
    expected = explain_batch(model, views, range(model.num_classes), "gradcam")
    with torch.no_grad():
        torch.testing.assert_close(output.logits, model(views).logits)
    for view in views:
        torch.testing.assert_close(maps[view], expected[view], rtol=1e-4, atol=1e-7)
    assert all(values.grad is None and not values.requires_grad for values in views.values())


def test_maps_in_one_pass_keep_no_graph_where_none_is_needed() -> None:
    model = PooledCnn().eval()
    model.calls = 0
    class_maps(model, {"image": images(2, 16, 16)})
    assert needs_no_gradients(model) and model.calls == 1 and not model.graph_kept
    assert not needs_no_gradients(PlacesCnn())


def test_a_missing_view_has_maps_of_zero() -> None:
    spec = Preprocess(PreprocessConfig(size=(16, 16))).input_spec(("arterial", "venous"))
    model = MeanOfViews(2, spec).eval()
    views = {"arterial": images(2, 16, 16), "venous": images(2, 16, 16, seed=1)}
    views["venous"][1] = torch.nan
    _, maps = class_maps(model, views)
    assert not maps["venous"][1].any() and maps["venous"][0].any() and maps["arterial"].any()


def test_drn_has_its_maps_without_gradients() -> None:
    spec = Preprocess(PreprocessConfig(size=(32, 32))).input_spec(("image",))
    model = build_model("drn50", 3, spec, options={"width": 0.125, "depths": (1, 1, 1, 1)}).eval()
    assert needs_no_gradients(model)
