"""What every entry of EXPLAINERS promises: on every model of the zoo, and in detail on tiny ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from foveate.contract import Classifier, ModelOutput, Views
from foveate.errors import RunFailed, UsageError
from foveate.explain.explainers import EXPLAINERS, explain_batch
from foveate.explain.options import ExplainOptions
from foveate.explain.shares import view_shares
from foveate.study.methods import OPTIONS as OPTIONS_OF_STUDIES
from foveate.study.methods import caveat, options_of
from tiny_classifiers import PlacesCnn, PooledCnn, TwoViewCnn, images
from zoo import QUICK, ZOO

# Quick settings; a batch size that divides nothing.
OPTIONS = ExplainOptions(
    batch_size=2, ig_steps=3, smoothgrad_samples=3, occlusion_window=4, occlusion_stride=3, baseline="mean"
)
TARGETS = [2, 0]
CONTROLS = ("random", "centre", "edge")
OF_FEATURES = ("cam", "gradcam", "gradcam++", "hirescam", "random")
Build = Callable[[], tuple[Classifier, dict[str, Tensor]]]

# Of the zoo, who hands out no attention over places: none at all, or gates of whole channels.
WITHOUT_PLACES = {
    *("drn50", "cadrn50", "cadrn50-B", "seresnet50", "agf-none", "timm:resnet18", "timm:convnext_atto"),
    *(
        "late_fusion",
        "late_fusion-mean",
        "late_fusion-shared",
        "late_fusion-one",
        "timm:vit_tiny_patch16_224",
    ),
    *("densenet121_ca", "densenet121_ca-authors", "densenet121_ca-rcab"),
    *("timm:vit_tiny_patch16_224+channel", "timm:convnext_atto+se", "timm:resnet10t+rca"),
    *("resnet3d10", "resnet3d18", "resnet3d10-paper", "can3d10", "can3d10-product"),
}
# And who has GELU in the place of ReLU, for which there is no guided rule.
WITHOUT_RELU = {
    *("agf-intra", "late_fusion-mean", "timm:vit_tiny_patch16_224", "timm:vit_tiny_patch16_224+channel"),
    *("timm:convnext_atto", "timm:convnext_atto+se", "timm:convnext_atto+gated_mil"),
}
GUIDED = ("guided_backprop", "guided_gradcam")
ZOO_PAIRS = [(kind, name) for kind in ZOO for name in EXPLAINERS]


def _slow_unless_quick(kind: str) -> Sequence[pytest.MarkDecorator]:
    return () if kind in QUICK else (pytest.mark.slow,)


@pytest.fixture(
    scope="module",
    params=[pytest.param(pair, id="-".join(pair), marks=_slow_unless_quick(pair[0])) for pair in ZOO_PAIRS],
)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A model of the zoo and an explainer; of this scope, so that all tests of one pair run together."""
    found: tuple[str, str] = request.param
    return found


@lru_cache(maxsize=2)
def _living(kind: str) -> tuple[Classifier, dict[str, Tensor]]:
    """A model of the zoo as a training loop may leave it, and two cases."""
    model = ZOO[kind].build()
    _disturbed(model)
    return model, ZOO[kind].views()


def _refused(kind: str, name: str) -> bool:
    """Whether a model cannot have an explainer: no head linear on one map, no attention, or no ReLUs."""
    model, _ = _living(kind)
    no_cam = model.linear_head is None or len(set(model.cam_feature.values())) > 1
    listed = {"attention": WITHOUT_PLACES, **dict.fromkeys(GUIDED, WITHOUT_RELU)}
    return (name == "cam" and no_cam) or kind in listed.get(name, ())


def _zoo_maps(kind: str, name: str, rows: slice = slice(None)) -> dict[str, Tensor]:
    """Maps of a model of the zoo, with few steps and windows of half a side."""
    model, views = _living(kind)
    window = tuple(side // 2 for side in model.input_spec.size)
    options = ExplainOptions(
        ig_steps=2, smoothgrad_samples=2, occlusion_window=window, occlusion_stride=window, baseline="mean"
    )
    targets = TARGETS if name in (*OF_FEATURES, "attention", "centre", "edge") else TARGETS[:1]
    return explain_batch(model, {view: x[rows] for view, x in views.items()}, targets, name, options=options)


_together = lru_cache(maxsize=2)(_zoo_maps)


def test_each_model_has_finite_maps_of_each_view_or_a_reason(pair: tuple[str, str]) -> None:
    kind, name = pair
    model, views = _living(kind)
    inputs = {view: x.clone() for view, x in views.items()}
    before = list(_fingerprint(model))
    if _refused(kind, name):
        with pytest.raises(
            UsageError, match=r"linear layer|attention over the places|gelu where the rule"
        ) as caught:
            _zoo_maps(kind, name)
        assert caught.value.fix
    else:
        maps = _together(kind, name)
        assert maps.keys() == views.keys()
        for view, values in maps.items():
            assert values.dtype == torch.float32 and values.isfinite().all() and not values.requires_grad
            assert values.shape[0] == 2 and values.ndim == views[view].ndim
            if name != "attention":
                assert values.shape[2:] == _space(model, views, view, name)
    assert list(_fingerprint(model)) == before, "the model is left as it was"
    assert all(torch.equal(x, inputs[view]) and x.grad is None for view, x in views.items())


def test_on_the_zoo_a_batch_is_its_cases_one_by_one(pair: tuple[str, str]) -> None:
    kind, name = pair
    if _refused(kind, name):
        with pytest.raises(UsageError):
            _zoo_maps(kind, name, slice(1, 2))
        return
    together = _together(kind, name)
    for view, values in _zoo_maps(kind, name, slice(1, 2)).items():
        scale = float(together[view].abs().max())
        torch.testing.assert_close(values[0], together[view][1], rtol=1e-3, atol=1e-4 * scale + 1e-9)


@pytest.mark.slow
def test_every_pair_of_model_and_explainer_is_run_or_refused() -> None:
    without_cam = {kind for kind in ZOO if ZOO[kind].build().linear_head is None}
    refused = [(kind, "cam") for kind in without_cam] + [(kind, "attention") for kind in WITHOUT_PLACES]
    refused += [(kind, name) for kind in WITHOUT_RELU for name in GUIDED]
    assert (WITHOUT_PLACES | WITHOUT_RELU).issubset(ZOO)
    run = [pair for pair in ZOO_PAIRS if pair not in refused]
    assert len(run) == len(ZOO) * len(EXPLAINERS) - len(refused)
    assert len(run) >= 9 * len(ZOO), "nine explainers suit every model"


def test_guided_maps_and_no_others_come_with_a_caveat() -> None:
    assert [name for name in EXPLAINERS if caveat(name)] == sorted(GUIDED, reverse=True)
    assert caveat("guided_gradcam:early") == caveat("guided_gradcam")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=_slow_unless_quick(kind))
        for kind, tiny in ZOO.items()
        if len(tiny.spec.views) > 1
    ],
)
def test_missing_views_of_the_zoo_have_empty_maps_and_no_share(kind: str) -> None:
    model, views = ZOO[kind].build(), ZOO[kind].views()
    first, *others = views
    views[first][1] = torch.nan
    if not model.tolerates_missing:
        with pytest.raises(UsageError, match="cannot do without"):
            explain_batch(model, views, [2], "gradcam")
        return
    maps = explain_batch(model, views, [2], "gradcam")
    assert not maps[first][1].any() and all(values.isfinite().all() for values in maps.values())
    alone = explain_batch(model, {view: x[1:] for view, x in views.items()}, [2], "gradcam")
    for view in others:
        scale = float(maps[view].abs().max())
        torch.testing.assert_close(alone[view][0], maps[view][1], rtol=1e-3, atol=1e-4 * scale + 1e-9)
    if len(views) <= 3:
        found = view_shares(model, views, [2])
        with torch.no_grad():
            expected = model.eval()(views).logits[:, 2:3]
        torch.testing.assert_close(found.sum(dim=2), expected, rtol=1e-4, atol=1e-4)
        assert found[1, 0, 0] == 0


def _space(model: Classifier, views: Views, view: str, name: str) -> torch.Size:
    """Where a map lies: in the feature of its view, or in the input."""
    if name not in OF_FEATURES:
        return views[view].shape[2:]
    flags = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        features = model.eval()(views).features
    for module, training in flags:
        module.training = training
    return torch.Size(features[model.cam_feature[view]].shape[2:])


def _fingerprint(model: Classifier) -> Iterator[object]:
    """What explaining could disturb in a large model, in a form that is quick to compare."""
    for name, value in model.state_dict(keep_vars=True).items():
        yield name, id(value), value._version, value.requires_grad, float(value.detach().double().sum())
        yield None if value.grad is None else float(value.grad.double().sum())
    for name, module in model.named_modules():
        hooks = [len(value) for key, value in vars(module).items() if "hooks" in key and value is not None]
        yield name, id(module), module.training, sum(hooks)
    yield torch.get_rng_state().numpy().tobytes()
    yield torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch._C._len_torch_function_stack()


MODELS: dict[str, Build] = {
    "pooled-2d": lambda: (PooledCnn(2), {"image": images(3, 8, 10)}),
    "pooled-3d": lambda: (PooledCnn(3), {"image": images(3, 4, 6, 8)}),
    "bent-2d": lambda: (PlacesCnn(2), {"image": images(3, 8, 8)}),
    "bent-3d": lambda: (PlacesCnn(3), {"image": images(3, 8, 8, 8)}),
    "two-views": lambda: (TwoViewCnn(), {"ct": images(3, 8, 8), "mr": images(3, 12, 6, seed=1)}),
}
POOLED = ("pooled-2d", "pooled-3d")  # the only ones that have the analytic CAM and attention
HAVE = {"cam": POOLED, "attention": POOLED, **dict.fromkeys(GUIDED, (*POOLED, "bent-2d", "bent-3d"))}


def _pairs(kinds: Iterable[str]) -> pytest.MarkDecorator:
    """Every model with every explainer it can have."""
    pairs = [(kind, name) for kind in kinds for name in EXPLAINERS if kind in HAVE.get(name, MODELS)]
    return pytest.mark.parametrize(("kind", "name"), pairs)


on_tiny_models = _pairs(MODELS)
on_three_models = _pairs(["pooled-2d", "bent-3d", "two-views"])
each_explainer = pytest.mark.parametrize("name", EXPLAINERS)


def _make(kind: str) -> tuple[Classifier, dict[str, Tensor]]:
    """The model and its views, the same for every call."""
    torch.manual_seed(0)
    return MODELS[kind]()


def _explain(model: Classifier, views: Views, name: str, *, seed: int = 0) -> dict[str, Tensor]:
    """Maps of TARGETS by quick settings that fit the model."""
    return explain_batch(model, views, TARGETS, name, options=OPTIONS, seed=seed)


def _state(model: Classifier) -> Iterator[object]:
    """All that explaining could disturb, in a form that can be compared."""
    for name, value in model.state_dict().items():
        yield name, id(value.untyped_storage()), value.clone().numpy().tobytes()
    for name, parameter in model.named_parameters():
        grad = None if parameter.grad is None else parameter.grad.clone().numpy().tobytes()
        yield (
            name,
            id(parameter),
            parameter.requires_grad,
            grad,
            parameter._version,
            parameter._backward_hooks,
        )
    for name, module in model.named_modules():
        hooks = [len(value) for key, value in vars(module).items() if "hooks" in key and value is not None]
        yield name, id(module), module.training, sum(hooks)
    yield torch.get_rng_state().numpy().tobytes()
    yield torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    yield torch._C._len_torch_function_stack()  # modes that watch every call


def _disturbed(model: Classifier) -> None:
    """A state such as a training loop may leave: parts frozen, parts in training, one gradient there."""
    model.train()
    modules, parameters = list(model.modules()), list(model.parameters())
    modules[2].eval()
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.ones_like(parameters[-1])


@on_tiny_models
def test_one_finite_float32_map_per_view_case_and_target(kind: str, name: str) -> None:
    model, views = _make(kind)
    maps = _explain(model, views, name)
    assert maps.keys() == views.keys()
    output = model.eval()(views)
    for view, values in maps.items():
        coarse = name in (*OF_FEATURES, "attention")
        like = output.features[model.cam_feature[view]] if coarse else views[view]
        assert values.shape == (len(views[view]), 2, *like.shape[2:])
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert not values.requires_grad
        assert values.flatten(2).std(dim=2).min() > 0, "no map is blank"


@on_tiny_models
def test_leaves_no_trace(kind: str, name: str) -> None:
    model, views = _make(kind)
    _disturbed(model)
    inputs = {view: x.clone() for view, x in views.items()}
    before = list(_state(model))
    _explain(model, views, name)
    assert list(_state(model)) == before
    for view, x in views.items():
        assert torch.equal(x, inputs[view])
        assert not x.requires_grad and x.grad is None


class _Breaks(PooledCnn):
    """Fails at a given call of forward."""

    breaks_at = 1

    def forward(self, views: Views) -> ModelOutput:
        output = super().forward(views)
        if self.calls >= self.breaks_at:
            raise RuntimeError("out of memory")
        return output


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if name not in ("cam", "centre", "edge")])
def test_leaves_no_trace_when_the_model_fails(name: str) -> None:
    model = _Breaks(declare=False)
    _disturbed(model)
    before = list(_state(model))
    model.breaks_at = 2  # in the second chunk or copy, when work is under way
    with pytest.raises(RuntimeError, match="out of memory"):
        _explain(model, {"image": images(3, 8, 8)}, name)
    assert list(_state(model)) == before


@on_tiny_models
def test_a_batch_is_its_cases_one_by_one(kind: str, name: str) -> None:
    model, views = _make(kind)
    together = _explain(model, views, name)
    for row in range(3):
        alone = _explain(model, {view: x[row : row + 1] for view, x in views.items()}, name)
        for view, values in alone.items():
            scale = float(together[view].abs().max())
            torch.testing.assert_close(values[0], together[view][row], rtol=0, atol=1e-5 * max(scale, 1))


@on_tiny_models
def test_maps_follow_the_order_of_the_targets(kind: str, name: str) -> None:
    model, views = _make(kind)
    maps = _explain(model, views, name)
    other = explain_batch(model, views, [0, 3, 2], name, options=OPTIONS)
    for view, values in maps.items():
        torch.testing.assert_close(values, other[view][:, [2, 0]], rtol=1e-4, atol=1e-6)
        if name not in ("centre", "edge", "attention"):
            assert not torch.allclose(values[:, 0], values[:, 1]), "each class has a map of its own"


def _autocast() -> AbstractContextManager[None]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.slow
@on_three_models
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, _autocast])
def test_the_callers_torch_modes_change_nothing(
    kind: str, mode: Callable[[], AbstractContextManager[None]], name: str
) -> None:
    model, views = _make(kind)
    expected = _explain(model, views, name)
    with mode():
        views = {view: x.clone() for view, x in views.items()}  # inference tensors, in inference mode
        before = list(_state(model))
        found = _explain(model, views, name)
        assert list(_state(model)) == before
    for view, values in found.items():
        assert torch.equal(values, expected[view])


@on_tiny_models
def test_train_mode_is_explained_in_evaluation_mode(kind: str, name: str) -> None:
    model, views = _make(kind)
    model.eval()
    expected = _explain(model, views, name)
    model.train()  # dropout and batch statistics would change the maps
    for view, values in _explain(model, views, name).items():
        assert torch.equal(values, expected[view])


@on_three_models
def test_half_precision_models_are_explained_in_float32(kind: str, name: str) -> None:
    model, views = _make(kind)
    model.bfloat16()
    views = {view: x.bfloat16() for view, x in views.items()}
    exact = copy.deepcopy(model).float()
    expected = _explain(exact, {view: x.float() for view, x in views.items()}, name)
    for view, values in _explain(model, views, name).items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, expected[view])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@each_explainer
def test_the_seed_fixes_all_that_is_drawn(name: str) -> None:
    model, views = _make("pooled-2d")
    first = _explain(model, views, name, seed=3)["image"]
    torch.rand(5)  # the global state has no say
    assert torch.equal(_explain(model, views, name, seed=3)["image"], first)
    drawn = name in ("random", "smoothgrad")
    assert torch.equal(_explain(model, views, name, seed=4)["image"], first) is not drawn


#: Two values of each option of a study that not every method reads, and what else they need.
CHOICES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "score": ({"score": "logit"}, {"score": "softmax"}),
    "baseline": ({"baseline": "zero"}, {"baseline": "black"}),
    "baselines": ({"baseline": "random", "baselines": 1}, {"baseline": "random", "baselines": 2}),
    "ig_steps": ({"ig_steps": 3}, {"ig_steps": 4}),
    "ig_rule": ({"ig_rule": "midpoint"}, {"ig_rule": "left"}),
}


@each_explainer
@pytest.mark.parametrize("option", OPTIONS_OF_STUDIES)
def test_a_method_reads_the_options_that_a_study_may_give_it_and_no_other(option: str, name: str) -> None:
    model, views = _make("pooled-2d")
    one, two = (
        explain_batch(model, views, TARGETS, name, options=replace(OPTIONS, **choice))["image"]
        for choice in CHOICES[option]
    )
    assert torch.equal(one, two) is not (option in options_of(name))


@each_explainer
def test_inputs_that_are_not_finite_are_an_error_naming_their_positions(name: str) -> None:
    model, views = _make("pooled-2d")
    views["image"][1, 0, 2, 2] = torch.nan
    with pytest.raises(
        RunFailed, match="view 'image' holds values that are not finite, at batch positions 1\n"
    ):
        _explain(model, views, name)


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if name not in (*CONTROLS, "attention")])
def test_maps_that_are_not_finite_are_an_error_naming_the_explainer(name: str) -> None:
    model, views = PooledCnn(2), {"image": images(3, 8, 10)}
    with torch.no_grad():
        model.head.weight[TARGETS[1], 0] = torch.inf
    with pytest.raises(RunFailed) as caught:
        _explain(model, views, name)
    message = f"{name} gave values for view 'image' that are not finite, at batch positions 0, 1, 2\n"
    assert str(caught.value).startswith(message)
    assert caught.value.code == "explanation-not-finite"


@pytest.mark.parametrize(
    ("views", "targets", "name", "message"),
    [
        ({"image": (1, 8, 8)}, [0], "grad-cam", "no explainer 'grad-cam'\n.*did you mean 'gradcam'"),
        ({"image": (1, 8, 8)}, [0], "x", "no explainer 'x'\n.*choose from: cam, gradcam"),
        ({"image": (1, 8, 8)}, [4], "gradcam", "no class 4\n.*0 to 3"),
        ({"image": (1, 8, 8)}, [0, -1], "gradcam", "no class -1"),
        ({"image": (1, 8, 8)}, [], "gradcam", "no class to explain was given"),
        ({"mri": (1, 8, 8)}, [0], "gradcam", "no view 'mri'\n.*its views are: image"),
        ({}, [0], "gradcam", "no view was given"),
        ({"image": (0, 8, 8)}, [0], "gradcam", "at least one; got {'image': 0}"),
    ],
)
def test_senseless_questions_are_refused_with_a_way_out(
    views: dict[str, tuple[int, ...]], targets: list[int], name: str, message: str
) -> None:
    given = {view: images(*shape) for view, shape in views.items()}
    with pytest.raises(UsageError, match=message):
        explain_batch(PooledCnn(), given, targets, name)


def test_views_of_different_cases_are_refused() -> None:
    with pytest.raises(UsageError, match=r"same number of cases.*'ct': 2, 'mr': 1"):
        explain_batch(TwoViewCnn(), {"ct": images(2, 8, 8), "mr": images(1, 8, 8)}, [0], "gradcam")
