"""DAMIDL and deepganet: sizes, missing phases, where maps lie, what is trained (logits: checkpoints)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveate.contract import Classifier, InputSpec
from foveate.errors import UsageError
from foveate.models import build_model
from foveate.models.lca_db.card import LCA_DB_CARDS
from foveate.models.lca_db.objective import instance_losses
from foveate.models.lca_db.rivals import Damidl, DeepGaNet
from foveate.models.objectives import FocalCrossEntropy

EIGHT = InputSpec(tuple("abcdefgh"), "3", (16, 128, 128), 1)
SMALL = InputSpec(("t2", "dwi", "c_arterial"), "3", (16, 64, 96), 1)
NAMES = ("deepganet", "damidl")


def _build(name: str, spec: InputSpec = SMALL, **options: Any) -> Classifier:
    torch.manual_seed(0)
    return build_model(name, 4, spec, options={"width": 0.0625} | options)


def _views(spec: InputSpec = SMALL, batch: int = 2) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, 1, *spec.size, generator=chance) for name in spec.views}


@pytest.mark.parametrize(
    ("name", "unused", "published"), [("deepganet", 147_970, 33_344_649), ("damidl", 16, 37_269_680)]
)
def test_parameters_are_the_published_ones_without_what_is_never_called(
    name: str, unused: int, published: int
) -> None:
    with torch.device("meta"):
        model = build_model(name, 7, EIGHT)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == published - unused == LCA_DB_CARDS[name].parameters


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name: str) -> None:
    model = _build(name).train()
    model.criterion = nn.CrossEntropyLoss()
    model.objective(model(_views()), torch.tensor([1, 3]), progress=0.5)["total"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_published_damidl_hands_out_probabilities() -> None:
    plain, paper = _build("damidl").eval(), _build("damidl", variant="paper").eval()
    with torch.no_grad():
        torch.testing.assert_close(paper(_views()).logits, plain(_views()).logits.softmax(dim=1))


def test_a_missing_phase_has_no_weight_and_the_others_share_it() -> None:
    model, views = _build("damidl").eval(), _views()
    lacking = views | {"dwi": torch.cat([views["dwi"][:1], torch.full_like(views["dwi"][1:], float("nan"))])}
    with torch.no_grad():
        full, partly = model(views), model(lacking)
    weights = {each.name: each for each in full.attention}["phases"]
    assert weights.normalized_over == (1,)
    left = partly.attention[0].weights
    torch.testing.assert_close(left[0], weights.weights[0])
    rest = weights.weights[1] * torch.tensor([1.0, 0.0, 1.0])
    torch.testing.assert_close(left[1], rest / rest.sum())
    torch.testing.assert_close(partly.logits[0], full.logits[0])
    assert not torch.allclose(partly.logits[1], full.logits[1])


@pytest.mark.parametrize(("y", "x"), [(15, 15), (15, 47), (47, 80)])
def test_maps_lie_over_what_they_see(y: int, x: int) -> None:
    """A voxel in the middle of a tile changes the cells around it, and none of another tile."""
    model, views = _build("damidl").eval(), _views(batch=1)
    other = {name: view.clone() for name, view in views.items()}
    other["dwi"][0, 0, 8, y, x] += 50
    with torch.no_grad():
        before, after = (model(each).features for each in (views, other))
    assert torch.equal(before["map_t2"], after["map_t2"])
    assert before["map_dwi"].shape[3:] == (32, 48)  # half of the picture
    rows, cols = (before["map_dwi"] != after["map_dwi"]).any(dim=(0, 1, 2)).nonzero(as_tuple=True)
    for cells, pixel in ((rows, y), (cols, x)):
        assert abs(float(2 * cells.double().mean() + 0.5) - pixel) <= 1  # a cell is two pixels wide
        assert cells.min() // 16 == cells.max() // 16 == pixel // 32


def test_a_margin_of_each_tile_sees_nothing_whole_and_is_zero() -> None:
    with torch.no_grad():
        found = (
            _build("damidl").eval()(_views()).features["map_dwi"].unflatten(4, (3, 16)).unflatten(3, (2, 16))
        )
    inner = torch.zeros(16, dtype=torch.bool)
    inner[3:12] = True
    assert found[..., inner, :, :][..., inner].any() and not found[..., ~inner, :, :].any()
    assert not found[..., ~inner].any()


def test_small_volumes_are_resampled() -> None:
    """As if they had been given so: 4 slices of 20 x 20 pixels make 16 slices of 3 x 3 tiles of 24."""
    spec = InputSpec(("t2",), "3", (4, 20, 20), 1)
    model, views = _build("damidl", spec).eval(), _views(spec)
    assert isinstance(model, Damidl)
    assert (model.tiling.number, model.tiling.height) == (9, 24)
    large = nn.functional.interpolate(views["t2"], size=(16, 72, 72), mode="trilinear")
    other = _build("damidl", InputSpec(("t2",), "3", (16, 72, 72), 1), tile=24).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(views).logits, other({"t2": large}).logits)
    with pytest.raises(UsageError, match="tile"):
        _build("damidl", tile=16)


def test_deepganet_trains_its_instances_with_the_bag_s_label() -> None:
    """Focal loss of the bag; from the second epoch on also u times the instances' loss by attention."""
    model, targets = _build("deepganet").eval(), torch.tensor([1, 3])
    assert isinstance(model, DeepGaNet)
    model.criterion = nn.CrossEntropyLoss()  # the paper's replaces it
    output = model(_views())
    start, late = (model.objective(output, targets, progress=share) for share in (0.0, 0.5))
    bag = FocalCrossEntropy()(output.logits, targets)
    torch.testing.assert_close(start["total"], bag)
    own = (output.weights["patch"] * instance_losses(output.instances["patch"], targets)).sum() / 2
    torch.testing.assert_close(late["total"], bag + 0.2 * own)


def test_deepganet_pools_its_regions() -> None:
    model = _build("deepganet").eval()
    assert isinstance(model, DeepGaNet)
    with torch.no_grad():
        output = model(_views())
        v = output.features["regions"].mean(dim=(2, 3, 4))
        hidden = model.hidden[2](v.relu())
        torch.testing.assert_close(model.attention.classifier(hidden), output.logits)
    (alpha,) = output.attention
    assert alpha.weights.shape == (2, 1, 2, 3) and alpha.normalized_over == (1, 2, 3)
