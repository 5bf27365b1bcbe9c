"""Sanity checks of maps: networks whose answers are known, and the model left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from foveate.contract import Classifier, InputSpec, ModelOutput, Views
from foveate.explain.each import explain_each
from foveate.explain.explainers import explain_batch
from foveate.explain.sanity import likeness, noisy, randomised, shifted, sign_check, unshifted
from tiny_classifiers import PlacesCnn, PooledCnn, TwoViewCnn, images


class PlantedSquare(Classifier):
    """One class's logit is the mean of the image inside a square, the other's is its opposite."""

    def __init__(self, side: int = 16) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(side, side))
        self.num_classes, self.cam_feature = 2, {"image": "map"}
        self.look = nn.Conv2d(3, 1, 1, bias=False)
        self.head = nn.Linear(side * side, 2, bias=False)
        square = torch.zeros(side, side)
        square[4:8, 8:12] = 1 / 16
        with torch.no_grad():
            self.look.weight.fill_(1 / 3)
            self.head.weight.copy_(torch.stack([square.flatten(), -square.flatten()]))

    def forward(self, views: Views) -> ModelOutput:
        features = self.look(views["image"])
        return ModelOutput(self.head(features.flatten(1)), {"map": features})


def edges(views: Views) -> dict[str, Tensor]:
    """What an edge detector draws: it never looks at the model."""
    x = views["image"].mean(dim=1)
    return {"image": x.diff(dim=-1, prepend=x[..., :1]).abs()}


def last_randomised(model: Classifier, views: Views) -> Classifier:
    ((_, fresh),) = randomised(model, views, stages=(1.0,))
    return fresh


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "integrated_gradients", "smoothgrad"])
def test_gradient_maps_of_the_planted_square_do_not_survive_randomisation(method: str) -> None:
    model, views = PlantedSquare(), {"image": images(6, 16, 16) + 1}
    targets = [0] * 6
    fresh = last_randomised(model, views)
    before, after = (explain_each(net, views, targets, method) for net in (model, fresh))
    assert np.nanmean(likeness(before, after).magnitude) < 0.4


def test_an_edge_detector_survives_randomisation() -> None:
    views = {"image": images(4, 16, 16)}
    assert likeness(edges(views), edges(views)).magnitude == pytest.approx(np.ones(4))


def test_randomisation_goes_from_the_last_layer_to_the_first_and_leaves_the_model_alone() -> None:
    model, views = PooledCnn(), {"image": images(4, 16, 16)}
    model.train()
    kept, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    changed = []
    for stage, fresh in randomised(model, views, stages=(0.0, 0.5, 1.0)):
        new = fresh.state_dict()
        names = {key.rpartition(".")[0] for key, value in new.items() if not torch.equal(value, kept[key])}
        changed.append((stage, names))
    assert changed == [
        ("1 of 4 layers, down to head", {"head"}),
        ("2 of 4 layers, down to trunk.3", {"head", "trunk.3"}),
        ("4 of 4 layers, down to trunk.0", {"head", "trunk.3", "trunk.1", "trunk.0"}),
    ]
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_randomised_batch_normalization_is_estimated_anew() -> None:
    model, views = PooledCnn(), {"image": 5 + 3 * images(8, 16, 16)}
    fresh = last_randomised(model, views)
    out = fresh.trunk[1](fresh.trunk[0](views["image"])).transpose(0, 1).flatten(1)
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std(dim=1), torch.ones(6), atol=0.01, rtol=0)


def test_the_same_seed_draws_the_same_layers() -> None:
    model, views = PooledCnn(), {"image": images(2, 16, 16)}
    logits = [last_randomised(model, views)(views).logits for _ in range(2)]
    torch.testing.assert_close(*logits)


def test_likeness_is_the_mean_over_the_views_that_a_case_has() -> None:
    first = {"ct": images(2, 6, 6)[:, 0], "mr": images(2, 8, 4, seed=1)[:, 0]}
    second = {"ct": images(2, 6, 6, seed=2)[:, 0], "mr": images(2, 8, 4, seed=3)[:, 0]}
    first["mr"][1] = second["mr"][1] = 0  # a view that the second case lacks
    found = likeness(first, second).signed
    each = [[stats.spearmanr(first[v][b].ravel(), second[v][b].ravel())[0] for v in first] for b in (0,)]
    assert found[0] == pytest.approx(np.mean(each))
    assert found[1] == pytest.approx(stats.spearmanr(first["ct"][1].ravel(), second["ct"][1].ravel())[0])


def test_a_fine_map_is_compared_with_a_coarse_one_on_the_coarse_grid() -> None:
    fine = images(1, 8, 8)[:, 0]
    coarse = fine.reshape(1, 4, 2, 4, 2).mean(dim=(2, 4))
    assert likeness({"image": fine}, {"image": coarse}).signed[0] == pytest.approx(1)


def test_maps_of_shifted_images_come_back_to_where_they_were() -> None:
    """A map that is the image itself moves with it: after the way back nothing has changed."""
    for space in ((64, 96), (4, 64, 64)):
        views = {"image": images(2, *space, channels=1)}
        maps = {"image": views["image"][:, 0]}
        moved = {"image": shifted(views)["image"][:, 0]}
        assert not torch.equal(moved["image"], maps["image"])
        before, after = unshifted(maps, moved, views)
        assert before["image"].shape[-2:] == (space[-2] - 2, space[-1] - space[-1] // 32)
        torch.testing.assert_close(after["image"], before["image"])


def test_noise_is_as_strong_as_it_says_and_spares_missing_views() -> None:
    x = images(3, 64, 64) * torch.tensor([1.0, 5.0, 20.0]).view(3, 1, 1, 1)
    x[2] = torch.nan
    found = noisy({"image": x}, share=0.1)["image"] - x
    assert found[2].isnan().all()
    np.testing.assert_allclose(found[:2].flatten(1).std(dim=1), [0.1, 0.5], rtol=0.05)


def test_signs_of_the_planted_square_by_hand() -> None:
    """Half of the square bright, half dark; what is taken away becomes what the blurred image has there."""
    model = PlantedSquare()
    x = torch.zeros(1, 3, 16, 16)
    x[:, :, 4:6, 8:12], x[:, :, 6:8, 8:12] = 2.0, -1.0
    maps = {"image": model.head.weight[0].view(1, 16, 16) * x[:, 0]}
    lowers, raises = sign_check(model, {"image": x}, maps, [0])
    from foveate.explain.baselines import baselines_of
    from foveate.explain.options import ExplainOptions

    blurred = baselines_of(x, "image", ExplainOptions(baseline="blur"), 0)[0][0, 0].double()
    bright, dark = blurred[4:6, 8:12], blurred[6:8, 8:12]
    assert lowers[0] == pytest.approx(float((2.0 - bright).sum()) / 16, abs=1e-6)
    assert raises[0] == pytest.approx(float((dark + 1.0).sum()) / 16, abs=1e-6)


def test_a_map_without_negative_evidence_says_nothing_of_it() -> None:
    model, x = PlantedSquare(), images(2, 16, 16)
    lowers, raises = sign_check(model, {"image": x}, {"image": torch.rand(2, 4, 4)}, [0, 1])
    assert np.isfinite(lowers).all() and np.isnan(raises).all()


def test_each_case_is_explained_for_its_own_class() -> None:
    model, views = TwoViewCnn(), {"ct": images(3, 8, 8), "mr": images(3, 6, 6, seed=1)}
    found = explain_each(model, views, [2, 0, 2], "gradcam")
    for row, target in enumerate([2, 0, 2]):
        alone = explain_batch(model, {v: x[row : row + 1] for v, x in views.items()}, [target], "gradcam")
        for view in views:
            torch.testing.assert_close(found[view][row], alone[view][0, 0])


def test_volumes_too() -> None:
    model, views = PlacesCnn(3), {"image": images(2, 8, 8, 8)}
    maps = explain_each(model, views, [0, 1], "hirescam")
    for _, fresh in randomised(model, views):
        found = likeness(maps, explain_each(fresh, views, [0, 1], "hirescam"))
        assert np.isfinite(found.structure).all()
    assert np.isfinite(sign_check(model, views, maps, [0, 1])[0]).all()
