"""Measures of faithfulness: planted networks whose curves are known, slow twins, and what it promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from foveate.contract import Classifier, InputSpec, ModelOutput, Views, given
from foveate.errors import RunFailed, UsageError
from foveate.explain import curves as curves_module
from foveate.explain.explainers import explain_batch
from foveate.explain.faithfulness import (
    RANDOM_ORDER,
    Faithfulness,
    FaithfulnessOptions,
    higher_is_better,
    measure_faithfulness,
)
from foveate.explain.options import ExplainOptions
from test_perturbation import filled_slowly
from tiny_classifiers import LinearScores, PlacesCnn, TwoViewCnn, images

EXACT = FaithfulnessOptions(
    score="logit", blocks=4, baselines=("zero",), least_rise=0.0, precision="float32", batch_size=7
)


class PlantedSquare(Classifier):
    """The first class's logit is the mean inside a square of a quarter of each side's length."""

    def __init__(self, side: int = 16) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(side, side), channels=1)
        self.num_classes = 2
        self.cam_feature = {}
        self.seen = 0
        inside = torch.zeros(side, side)
        inside[: side // 2, : side // 2] = 1
        self.register_buffer("inside", inside)

    def forward(self, views: Views) -> ModelOutput:
        self.seen += len(views["image"])
        inside: Tensor = self.inside
        mean = (views["image"][:, 0] * inside).sum(dim=(1, 2)) / inside.sum()
        return ModelOutput(torch.stack([mean, torch.zeros_like(mean)], dim=1))


class Tolerant(LinearScores):
    """Weighted sums of the views that are there."""

    tolerates_missing = True

    def forward(self, views: Views) -> ModelOutput:
        return super().forward({view: given(x)[0] for view, x in views.items()})


def nearly_even(cases: int, side: int = 16) -> Tensor:
    """Images of ones that differ by so little that only their random draws notice."""
    return 1 + 1e-4 * images(cases, side, side, channels=1)


def planted(cases: int, side: int = 16) -> tuple[PlantedSquare, dict[str, Tensor], Tensor]:
    model = PlantedSquare(side)
    inside: Tensor = model.inside
    return model, {"image": nearly_even(cases, side)}, inside.expand(cases, -1, -1)


# --- Known curves ---------------------------------------------------------------------------------


def test_the_planted_square_has_the_best_and_the_worst_curves() -> None:
    model, views, truth = planted(2)
    options = replace(EXACT, fractions=(0.125, 0.25, 0.5, 0.75))
    maps = {"truth": {"image": truth}, "opposite": {"image": -truth}}
    found = measure_faithfulness(model, views, maps, [0, 0], options)
    # The square is a quarter of the image: removing it takes the score away in a straight line up to 0.25.
    deletion = {"truth": [1, 0.5, 0, 0, 0, 0], "opposite": [1, 1, 1, 1, 1, 0]}
    for name, expected in deletion.items():
        for row in range(2):
            np.testing.assert_allclose(found.curves["deletion_zero"][name][row], expected, atol=1e-3)
            np.testing.assert_allclose(
                found.curves["insertion_zero"][name][row], 1 - np.array(expected), atol=1e-3
            )
    assert found.shares["deletion_zero"].tolist() == [0, 0.125, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(found.measures["deletion_zero"]["truth"], 0.125, atol=1e-3)
    np.testing.assert_allclose(found.measures["insertion_zero"]["truth"], 0.875, atol=1e-3)
    np.testing.assert_allclose(found.measures["deletion_zero"]["opposite"], 0.875, atol=1e-3)
    np.testing.assert_allclose(found.whole, 1, atol=1e-3)
    assert (found.empty["zero"] == 0).all()


def test_a_random_order_is_worth_a_half_on_average() -> None:
    model, views, truth = planted(400)
    found = measure_faithfulness(model, views, {"truth": {"image": truth}}, [0] * 400, EXACT)
    for measure in ("deletion_zero", "insertion_zero"):
        areas = found.measures[measure][RANDOM_ORDER]
        assert abs(areas.mean() - 0.5) < 4 * areas.std() / 20
        expected = found.shares[measure] if measure.startswith("insertion") else 1 - found.shares[measure]
        np.testing.assert_allclose(found.mean_curve(measure, RANDOM_ORDER), expected, atol=0.05)
    assert abs(found.measures["sensitivity_n"][RANDOM_ORDER].mean()) < 0.05
    assert abs(found.measures["road"][RANDOM_ORDER].mean()) < 0.01


def test_road_tells_the_planted_square_from_its_opposite() -> None:
    model, _, truth = planted(3)
    views = {"image": 2 * truth[:, None] + 0.1 * images(3, 16, 16, channels=1)}  # bright where it counts
    maps = {"truth": {"image": truth}, "opposite": {"image": -truth}, "even": {"image": 0 * truth}}
    found = measure_faithfulness(model, views, maps, [0] * 3, EXACT).measures["road"]
    assert (found["truth"] > 0.5).all()
    np.testing.assert_allclose(found["opposite"], -found["truth"], atol=0.1)
    assert (np.abs(found["even"]) < found["truth"]).all(), "ties are in a random order"


@pytest.mark.parametrize("spaces", [[(8, 8)], [(4, 8, 8)], [(8, 8), (6, 4)]])
def test_sensitivity_n_of_exact_attributions_of_a_linear_model_is_one(spaces: list[tuple[int, ...]]) -> None:
    model = LinearScores(*spaces)
    views = {
        name: images(3, *space, channels=2)
        for name, space in zip(model.input_spec.views, spaces, strict=True)
    }
    targets = [2, 0, 1]
    exact = {
        name: torch.stack(
            [(weight[k] * x).sum(dim=0) for k, x in zip(targets, views[name], strict=True)]
        ).detach()
        for (name, weight) in zip(views, model.weights, strict=True)
    }
    maps = {
        "exact": exact,
        "opposite": {view: -values for view, values in exact.items()},
        "even": {view: torch.zeros_like(values) for view, values in exact.items()},
    }
    options = replace(EXACT, score="softmax", subset_fractions=(0.2, 0.5, 0.8))
    found = measure_faithfulness(model, views, maps, targets, options)
    np.testing.assert_allclose(found.curves["sensitivity_n"]["exact"], np.ones((3, 3)), atol=1e-5)
    np.testing.assert_allclose(found.measures["sensitivity_n"]["opposite"], -1, atol=1e-5)
    assert np.isnan(found.measures["sensitivity_n"]["even"]).all(), "an even map says nothing"
    assert np.isfinite(found.measures["sensitivity_n"][RANDOM_ORDER]).all()


# --- Slow twins -----------------------------------------------------------------------------------


def without(case: Tensor, order: np.ndarray, squares: slice) -> np.ndarray:
    """Mask of the pixels in some squares of an order, for 8×8 pixels in squares of two."""
    mask = np.zeros(case.shape[1:], dtype=bool)
    for square in order[squares]:
        row, column = divmod(int(square), 4)
        mask[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = True
    return mask


def probability(model: Classifier, pixels: np.ndarray, target: int, kind: str) -> float:
    with torch.no_grad():
        logits = model.eval()({"image": torch.from_numpy(pixels).float()[None]}).logits[0].double().numpy()
    shifted = np.exp(logits - logits.max())
    return {"softmax": shifted / shifted.sum(), "sigmoid": 1 / (1 + np.exp(-logits)), "logit": logits}[kind][
        target
    ]


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "logit"])
def test_curves_are_those_of_one_image_after_the_other(kind: str) -> None:
    torch.manual_seed(0)
    model, x, targets = PlacesCnn(2), 3 * images(3, 8, 8), [1, 3, 0]
    values = images(3, 8, 8, channels=1, seed=5)[:, 0]
    options = replace(EXACT, score=kind, fractions=(0.25, 0.5), road_fractions=(0.25, 0.5), road_noise=0.0)
    found = measure_faithfulness(model, {"image": x}, {"map": {"image": values}}, targets, options)
    for row, target in enumerate(targets):
        case = x[row].double().numpy()
        sums = values[row].reshape(4, 2, 4, 2).sum(dim=(1, 3)).flatten().numpy()
        order = np.argsort(-sums)
        whole, empty = probability(model, case, target, kind), probability(model, 0 * case, target, kind)
        assert found.whole[row] == pytest.approx(whole, abs=1e-6)
        assert found.empty["zero"][row] == pytest.approx(empty, abs=1e-6)
        deletion, insertion = [1.0], [0.0]
        for count in (4, 8):
            mask = without(x[row], order, slice(count))
            left, shown = np.where(mask, 0, case), np.where(mask, case, 0)
            rise = whole - empty if whole > empty else np.nan
            deletion.append((probability(model, left, target, kind) - empty) / rise)
            insertion.append((probability(model, shown, target, kind) - empty) / rise)
        deletion, insertion = [*deletion, 0.0], [*insertion, 1.0]
        if whole > empty:
            np.testing.assert_allclose(
                found.curves["deletion_zero"]["map"][row], deletion, rtol=1e-4, atol=1e-5
            )
            np.testing.assert_allclose(
                found.curves["insertion_zero"]["map"][row], insertion, rtol=1e-4, atol=1e-5
            )
            area = np.trapezoid(deletion, [0, 0.25, 0.5, 1])
            assert found.measures["deletion_zero"]["map"][row] == pytest.approx(area, rel=1e-4)
        else:
            assert np.isnan(found.measures["deletion_zero"]["map"][row])
        expected = {}
        for name, chosen in (("road_most", lambda n: slice(n)), ("road_least", lambda n: slice(16 - n, 16))):
            masks = [without(x[row], order, chosen(count)) for count in (4, 8)]
            expected[name] = [probability(model, filled_slowly(case, mask), target, kind) for mask in masks]
            np.testing.assert_allclose(found.curves[name]["map"][row], [whole, *expected[name]], atol=2e-5)
        road = np.mean(expected["road_least"]) - np.mean(expected["road_most"])
        assert found.measures["road"]["map"][row] == pytest.approx(road, abs=2e-5)
    assert np.isfinite(found.measures["deletion_zero"]["map"]).any(), "one case at least has a rise"


def test_the_correlation_is_scipys() -> None:
    first, second = torch.randn(2, 3, 9, 4), torch.randn(3, 9, 4)
    found = curves_module._correlation(first, second)
    for place in np.ndindex(2, 3, 4):
        expected = stats.pearsonr(first[place[0], place[1], :, place[2]], second[place[1], :, place[2]])
        assert float(found[place]) == pytest.approx(float(expected.statistic), abs=1e-5)
    second[1, :, 2] = 0.1
    assert curves_module._correlation(first, second)[:, 1, 2].isnan().all()


# --- Several views --------------------------------------------------------------------------------


def test_views_are_ranked_together() -> None:
    model = LinearScores((8, 8), (8, 8), channels=1)
    with torch.no_grad():
        model.weights[0].zero_()
        model.weights[1].fill_(1)
        model.bias.zero_()
    views = {name: torch.ones(1, 1, 8, 8) for name in ("view0", "view1")}
    maps = {"map": {"view0": torch.zeros(1, 8, 8), "view1": torch.full((1, 2, 2), 0.5)}}
    options = replace(EXACT, fractions=(0.25, 0.5))
    found = measure_faithfulness(model, views, maps, [0], options).curves["deletion_zero"]["map"]
    np.testing.assert_allclose(found[0], [1, 0.5, 0, 0], atol=1e-6)


def test_a_case_without_a_view_is_as_a_model_without_it() -> None:
    model, alone = Tolerant((8, 8), (6, 6)), Tolerant((8, 8))
    alone.load_state_dict(
        {name: values for name, values in model.state_dict().items() if name != "weights.1"}
    )
    views = {"view0": images(2, 8, 8, channels=2), "view1": images(2, 6, 6, channels=2)}
    views["view1"][1] = torch.nan
    maps = {"map": {"view0": images(2, 4, 4, channels=1)[:, 0], "view1": images(2, 3, 3, channels=1)[:, 0]}}
    options = replace(EXACT, least_rise=0.0, road_noise=0.0)
    both = measure_faithfulness(model, views, maps, [0, 1], options)
    one = measure_faithfulness(
        alone, {"view0": views["view0"][1:]}, {"map": {"view0": maps["map"]["view0"][1:]}}, [1], options
    )
    for curve in ("deletion_zero", "insertion_zero", "road_most", "road_least"):
        np.testing.assert_allclose(
            both.curves[curve]["map"][1], one.curves[curve]["map"][0], rtol=1e-4, atol=1e-5
        )


# --- What it promises -----------------------------------------------------------------------------


def some_maps(views: Mapping[str, Tensor], seed: int = 3) -> dict[str, dict[str, Tensor]]:
    return {
        name: {
            view: images(len(x), *(side // 2 for side in x.shape[2:]), channels=1, seed=seed + n)[:, 0]
            for view, x in views.items()
        }
        for n, name in enumerate(("one", "two"))
    }


def build(kind: str) -> tuple[Classifier, dict[str, Tensor]]:
    torch.manual_seed(0)
    if kind == "two-views":
        return TwoViewCnn(), {"ct": images(3, 8, 8), "mr": images(3, 12, 6, seed=1)}
    dimensions = 3 if kind == "3d" else 2
    return PlacesCnn(dimensions), {"image": images(3, *(8,) * dimensions)}


@pytest.mark.parametrize("kind", ["2d", "3d", "two-views"])
def test_a_batch_is_its_cases_one_by_one_and_their_union(kind: str) -> None:
    model, views = build(kind)
    maps, options = some_maps(views), replace(EXACT, baselines=("blur", "mean"), score="softmax")
    together = measure_faithfulness(model, views, maps, [0, 3, 1], options)
    parts = []
    for row, target in enumerate([0, 3, 1]):
        own = {view: x[row : row + 1] for view, x in views.items()}
        part = {name: {view: x[row : row + 1] for view, x in each.items()} for name, each in maps.items()}
        parts.append(measure_faithfulness(model, own, part, [target], options))
    joined = Faithfulness.joined(parts)
    assert together.measures.keys() == joined.measures.keys()
    for measure, by_map in together.measures.items():
        assert list(by_map) == ["one", "two", RANDOM_ORDER]
        for name, values in by_map.items():
            assert values.shape == (3,) and values.dtype == np.float64
            np.testing.assert_allclose(values, joined.measures[measure][name], rtol=1e-3, atol=1e-4)
    for curve, by_map in together.curves.items():
        for name, values in by_map.items():
            assert values.shape == (3, len(together.shares[curve]))
            np.testing.assert_allclose(values, joined.curves[curve][name], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(together.whole, joined.whole, atol=1e-6)
    np.testing.assert_allclose(together.empty["mean"], joined.empty["mean"], atol=1e-6)


def test_the_seed_draws_the_random_order_and_nothing_of_an_untied_map() -> None:
    model, views = build("2d")
    first, second = (
        measure_faithfulness(model, views, some_maps(views), [0, 1, 2], EXACT, seed=seed) for seed in (0, 1)
    )
    again = measure_faithfulness(model, views, some_maps(views), [0, 1, 2], EXACT)
    np.testing.assert_array_equal(
        first.curves["insertion_zero"]["one"], second.curves["insertion_zero"]["one"]
    )
    assert not np.array_equal(
        first.curves["road_most"][RANDOM_ORDER], second.curves["road_most"][RANDOM_ORDER]
    )
    for measure, by_map in first.measures.items():
        for name, values in by_map.items():
            np.testing.assert_array_equal(values, again.measures[measure][name])


def test_it_leaves_no_trace() -> None:
    model, views = build("2d")
    model.train()
    model.trunk[1].eval()
    flags = [module.training for module in model.modules()]
    state = {name: values.clone() for name, values in model.state_dict().items()}
    inputs = views["image"].clone()
    random = torch.get_rng_state()
    with torch.inference_mode():
        measure_faithfulness(model, views, some_maps(views), [0, 1, 2], EXACT)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(values, state[name]) for name, values in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(views["image"], inputs) and torch.equal(torch.get_rng_state(), random)


def test_a_double_precision_model_stays_so() -> None:
    model, views = build("2d")
    single = measure_faithfulness(model, views, some_maps(views), [0, 1, 2], EXACT)
    double = measure_faithfulness(
        model.double(), views, some_maps(views), [0, 1, 2], replace(EXACT, precision="auto")
    )
    np.testing.assert_allclose(
        single.curves["road_least"]["two"], double.curves["road_least"]["two"], atol=1e-5
    )
    assert next(model.parameters()).dtype == torch.float64


def test_a_case_with_nothing_to_lose_is_undefined_and_left_out_of_the_mean() -> None:
    model, views, truth = planted(3)
    views["image"][1] *= 0.05
    options = replace(EXACT, least_rise=0.1)
    found = measure_faithfulness(model, views, {"truth": {"image": truth}}, [0, 0, 0], options)
    for measure in ("deletion_zero", "insertion_zero"):
        assert np.isnan(found.measures[measure]["truth"]).tolist() == [False, True, False]
        assert np.isnan(found.curves[measure]["truth"][1]).all()
        expected = found.curves[measure]["truth"][[0, 2]].mean(axis=0)
        np.testing.assert_array_equal(found.mean_curve(measure, "truth"), expected)
    assert np.isfinite(found.measures["road"]["truth"]).all()
    views["image"] *= 0.05
    nothing = measure_faithfulness(model, views, {"truth": {"image": truth}}, [0, 0, 0], options)
    assert np.isnan(nothing.mean_curve("deletion_zero", "truth")).all()
    lower = measure_faithfulness(
        model, {"image": -views["image"]}, {"truth": {"image": truth}}, [0] * 3, EXACT
    )
    assert np.isnan(lower.measures["deletion_zero"]["truth"]).all(), "a score that falls has nothing to lose"


@pytest.mark.parametrize(
    "change", [{}, {"baselines": ()}, {"road_fractions": ()}, {"subsets": 0}, {"subset_fractions": ()}]
)
def test_the_number_of_passes_is_as_announced(change: dict[str, object]) -> None:
    model, views, truth = planted(3)
    options = replace(EXACT, **{"baselines": ("blur", "mean"), **change})
    found = measure_faithfulness(model, views, {"truth": {"image": truth}}, [0] * 3, options)
    assert model.seen == 3 * options.passes(1)
    assert ("road" in found.measures) == bool(options.road_fractions)
    assert ("sensitivity_n" in found.measures) == bool(options.subsets and options.subset_fractions)
    assert ("deletion_blur" in found.measures) == bool(options.baselines)


def test_bfloat16_is_used_where_it_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves_module, "native_bf16", lambda kind: True)
    seen: list[torch.dtype] = []

    class Watched(PlacesCnn):
        chaotic = False

        def forward(self, views: Views) -> ModelOutput:
            output = super().forward(views)
            seen.append(output.logits.dtype)
            return replace(output, logits=(1e4 * output.logits).sin()) if self.chaotic else output

    torch.manual_seed(0)
    model, views = Watched(2), {"image": images(3, 8, 8)}
    options = replace(EXACT, precision="auto", score="softmax")
    half = measure_faithfulness(model, views, some_maps(views), [0, 1, 2], options)
    assert seen[-1] == torch.bfloat16 and seen.count(torch.float32) == 1
    single = measure_faithfulness(
        model, views, some_maps(views), [0, 1, 2], replace(options, precision="float32")
    )
    assert seen[-1] == torch.float32
    np.testing.assert_allclose(half.curves["road_most"]["one"], single.curves["road_most"]["one"], atol=0.01)
    model.chaotic = True
    measure_faithfulness(model, views, some_maps(views), [0, 1, 2], options)
    assert seen[-1] == torch.float32


def test_the_gradient_of_the_planted_square_beats_every_control() -> None:
    model, views, _ = planted(6)
    views = {"image": views["image"] + 0.2 * images(6, 16, 16, channels=1, seed=2)}
    maps = {
        name: {
            "image": explain_batch(model, views, [0], name, options=ExplainOptions(ig_steps=2))["image"][:, 0]
        }
        for name in ("integrated_gradients", "centre", "edge")
    }
    found = measure_faithfulness(model, views, maps, [0] * 6, EXACT)
    for measure, by_map in found.measures.items():
        sign = 1 if higher_is_better(measure) else -1
        others = [np.nanmean(by_map[name]) for name in ("centre", "edge", RANDOM_ORDER)]
        if measure != "road":  # the filling of an even image is the image
            assert all(
                sign * np.nanmean(by_map["integrated_gradients"]) > sign * other for other in others
            ), measure


# --- What it refuses ------------------------------------------------------------------------------


def test_what_does_not_fit_together_is_refused() -> None:
    model, views, truth = planted(2)
    good = {"truth": {"image": truth}}
    refused = (
        (good, [0], "2 cases need 2 targets, got 1"),
        (good, [0, 2], "no class 2"),
        ({}, [0, 0], "at least one map"),
        ({RANDOM_ORDER: good["truth"]}, [0, 0], "always measured"),
        ({"map": {}}, [0, 0], "map 'map' of view 'image'"),
        ({"map": {"image": truth[:1]}}, [0, 0], "must be 2 maps"),
        ({"map": {"image": truth[0]}}, [0, 0], "must be 2 maps"),
    )
    for maps, targets, message in refused:
        with pytest.raises(UsageError, match=message):
            measure_faithfulness(model, views, maps, targets, EXACT)
    with pytest.raises(RunFailed, match=r"map 'map' holds values.*not finite, at batch positions 1"):
        broken = torch.stack([truth[0], truth[0] * torch.nan])
        measure_faithfulness(model, views, {"map": {"image": broken}}, [0, 0], EXACT)


def test_a_score_that_is_not_finite_is_refused() -> None:
    class Broken(PlantedSquare):
        def forward(self, views: Views) -> ModelOutput:
            output = super().forward(views)
            return replace(output, logits=output.logits.log())

    model = Broken()
    truth = torch.ones(1, 16, 16)
    with pytest.raises(
        RunFailed, match="without parts of its images the model gave scores that are not finite"
    ):
        measure_faithfulness(model, {"image": nearly_even(1)}, {"map": {"image": truth}}, [0], EXACT)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"blocks": 1}, "blocks must be at least 2, got 1"),
        ({"subsets": -1}, "subsets must be at least 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"fractions": (0.0, 0.5)}, "fractions must ascend between 0 and 1"),
        ({"road_fractions": (0.5, 0.2)}, "road_fractions must ascend"),
        ({"subset_fractions": (1.0,)}, "subset_fractions must ascend"),
        ({"road_noise": float("nan")}, "road_noise must be 0 or more"),
        ({"least_rise": -1.0}, "least_rise must be 0 or more"),
        ({"score": "margin"}, "no score 'margin'"),
        ({"precision": "half"}, "no precision 'half'"),
        ({"baselines": ("white",)}, "no baseline 'white'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_senseless_options_are_refused(choice: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FaithfulnessOptions(**choice)
