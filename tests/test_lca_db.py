"""LCA-DB: sizes, the loss against loops and worked numbers, what each term teaches, missing phases."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from foveate.contract import InputSpec
from foveate.device import channels_last
from foveate.errors import UsageError
from foveate.explain.explainers import explain_batch
from foveate.explain.options import ExplainOptions
from foveate.models import build_model, make_criterion
from foveate.models.lca_db.branches import PatchBranch
from foveate.models.lca_db.card import LCA_DB_CARDS
from foveate.models.lca_db.network import LcaDb
from foveate.models.lca_db.objective import LcaObjective, LcaOutput, branch_terms, instance_losses
from foveate.models.objectives import FocalCrossEntropy
from foveate.train.tuning.convolution import RoutedConvolutions
from foveate.train.tuning.kernel_check import KernelCheck
from reduced_precision import checked_ways, convolutions

EIGHT = InputSpec(tuple("abcdefgh"), "3", (16, 128, 128), 1)  # the published input
SMALL = InputSpec(("t2", "dwi", "c_arterial"), "3", (16, 64, 64), 1)
THIN = {"width": 0.125}
both_variants = pytest.mark.parametrize("variant", ["paper", "corrected"])


def _build(spec: InputSpec = SMALL, name: str = "lca_db10", **options: Any) -> LcaDb:
    torch.manual_seed(0)
    model = build_model(name, 4, spec, options=THIN | options)
    assert isinstance(model, LcaDb)
    model.criterion = make_criterion("multiclass", class_counts=[1] * 4)
    return model


def _views(spec: InputSpec = SMALL, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, 1, *spec.size, generator=chance) for name in spec.views}


def _published(name: str = "lca_db10", **options: Any) -> nn.Module:
    """At full width, seven classes and the published input, without memory."""
    with torch.device("meta"):
        return build_model(name, 7, EIGHT, options=options)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("lca_db10", {}, 34_068_757),
        ("lca_db10", {"image_stem": 64}, 33_164_053),
        ("lca_db18", {}, 71_677_717),
        ("lca_db34", {}, 132_296_981),
        ("lca_db10_image", {}, 18_809_479),
        ("lca_db10_patch", {}, 14_350_983),  # of 14,572,938 those that the public code uses
        ("lca_db10", {"width": 0.125}, 548_725),
    ],
)
def test_parameters_of_the_published_networks(name: str, options: dict[str, Any], count: int) -> None:
    assert _count(_published(name, variant="paper", **options)) == count


def test_parameters_of_each_part_of_the_published_network() -> None:
    model = _published(variant="paper")
    stages = {0: 221_440, 1: 672_512, 2: 2_688_512, 3: 10_750_976}
    expected = {f"branches.patch.trunk.stages.{k}": v for k, v in stages.items()}
    expected |= {f"branches.image.trunk.stages.{k}": v for k, v in (stages | {0: 1_028_480}).items()}
    expected |= {
        "branches.image.trunk.stem.conv": 110_592,
        "branches.image.trunk.stem.bn": 1_024,
        "branches.image.conv5": 4_194_304,
        "branches.image.conv6": 262_144,
        "branches.patch.trunk.stem.conv": 13_824,
        "branches.patch.trunk.stem.bn": 128,
        "attention.image": 3_591,
        "attention.patch": 3_591,
        "bag": 3_591,
    }
    assert {name: _count(model.get_submodule(name)) for name in expected} == expected


def test_cards_count_the_default_options() -> None:
    for name, card in LCA_DB_CARDS.items():
        assert (_count(_published(name)), card.classes) == (card.parameters, 7), name
    # conv5 over both slices of the last map: once more as many weights, beside the narrow stem.
    assert LCA_DB_CARDS["lca_db10"].parameters == 33_164_053 + 4_194_304


@pytest.mark.parametrize(
    ("options", "macs"),
    [
        ({"variant": "paper"}, 352.8),
        ({"variant": "paper", "image_stem": 64}, 115.9),
        ({}, 115.884559872 + 512 * 512 * 16 * 16 / 1e9),  # as much again for the second slice
    ],
)
def test_multiplications_of_a_case(options: dict[str, Any], macs: float) -> None:
    with FakeTensorMode(), torch.no_grad():
        model = build_model("lca_db10", 7, EIGHT, options=options)
        assert isinstance(model, LcaDb)
        with FlopCounterMode(display=False) as counter:
            model.network(torch.empty(1, 8, 16, 128, 128), torch.ones(1, 8, dtype=torch.bool))
    assert counter.get_total_flops() / 2e9 == pytest.approx(macs, abs=0.05 if len(options) else 1e-3)


def test_initial_weights_follow_the_public_code() -> None:
    torch.manual_seed(0)
    model = build_model("lca_db10", 7, EIGHT, options={"width": 0.25})
    for name in ("image.trunk.stem.conv", "image.conv5", "patch.trunk.stages.3.0.conv2"):
        weight = model.get_parameter(f"branches.{name}.weight")
        wanted = math.sqrt(2 / (weight[0, 0].numel() * weight.shape[0]))
        assert weight.std().item() == pytest.approx(wanted, rel=0.05), name
        assert weight.mean().abs().item() < 0.1 * wanted
    assert all(
        (m.weight == 1).all() and not m.bias.any() for m in model.modules() if isinstance(m, nn.BatchNorm3d)
    )
    bound = model.get_parameter("bag.weight").abs().max().item() * math.sqrt(128)
    assert 0.9 < bound <= 1, "uniform within 1 / sqrt(inputs)"


# --- the network ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((16, 64, 64), (2, 2)),
        ((8, 48, 48), (2, 2)),
        ((5, 40, 72), (2, 3)),
        ((9, 50, 100), (2, 3)),
        ((1, 32, 96), (2, 3)),
        ((40, 32, 32), (2, 2)),  # more slices than the published code can take
    ],
)
@pytest.mark.parametrize("views", [("t2",), ("t2", "dwi")])
def test_any_size_and_number_of_phases(
    size: tuple[int, int, int], grid: tuple[int, int], views: tuple[str, ...]
) -> None:
    spec = InputSpec(views, "3", size, 1)
    model = _build(spec).train()
    output = model(_views(spec))
    model.objective(output, torch.tensor([1, 3]), progress=0.5)["total"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    rows, cols = grid
    assert output.features["regions"].shape == (2, 64, 1, rows, cols)
    tiling = model.tiling
    fine = (math.ceil(size[0] / 8), rows * tiling.height // 8, cols * tiling.width // 8)
    assert tuple(output.features["image_map"].shape[2:]) == fine
    for branch in ("image", "patch"):
        assert output.instances[branch].shape == (2, rows * cols, 4)
        alpha = output.weights[branch]
        assert (alpha >= 0).all()
        torch.testing.assert_close(alpha.sum(dim=1), torch.ones(2), atol=1e-6, rtol=0)


@both_variants
def test_an_instance_answers_most_to_its_own_tile(variant: str) -> None:
    spec = InputSpec(("t2",), "3", (8, 64, 96), 1)
    model, views = _build(spec, variant=variant).eval(), _views(spec, 1)
    x, present = model.stack(views)
    with torch.no_grad():
        for name, branch in model.branches.items():
            before = branch(x, present).values[0]
            for tile in range(6):
                row, col = divmod(tile, 3)
                other = x.clone()
                other[:, :, :, 32 * row + 8 : 32 * row + 24, 32 * col + 8 : 32 * col + 24] += 1
                changed = (branch(other, present).values[0] - before).norm(dim=1)
                assert changed.argmax() == tile
                assert name == "image" or (changed > 0).sum() == 1, "a tile is seen by itself"


@both_variants
def test_only_the_corrected_image_branch_reads_every_slice_of_its_last_map(variant: str) -> None:
    model, views = _build(variant=variant).eval(), _views()
    image = model.branches["image"]
    with torch.no_grad():
        before = model(views).logits
        handle = image.trunk.register_forward_hook(
            lambda module, inputs, last: last + torch.tensor([0.0, 100.0]).view(2, 1, 1)
        )
        after = model(views).logits
        handle.remove()
    assert torch.equal(before, after) is (variant == "paper")


@pytest.mark.parametrize(
    ("name", "cross"), [("lca_db10", "loss"), ("lca_db10", "feature"), ("lca_db10_patch", None)]
)
def test_regions_add_up_to_the_logits(name: str, cross: str | None) -> None:
    model = _build(name=name, cross=cross, cam="regions").eval()
    output = model(_views())
    head = model.linear_head
    assert head is not None
    regions = output.features["regions"]
    shares = torch.einsum("kc,bcdhw->bkdhw", head.weight, regions) / regions[0, 0].numel()
    total = shares.sum(dim=(2, 3, 4)) + head.bias
    torch.testing.assert_close(total, output.logits, atol=1e-6, rtol=1e-5)
    for found in explain_batch(model, _views(), [0, 1, 2, 3], "cam").values():
        torch.testing.assert_close(found.mean(dim=(2, 3, 4)) + head.bias, output.logits)


@pytest.mark.parametrize("branch", ["image", "patch"])
def test_region_maps_are_attention_times_evidence(branch: str) -> None:
    model, views = _build().eval(), _views()
    x, present = model.stack(views)
    with torch.no_grad():
        output = model(views)
        values = model.branches[branch](x, present).values
        evidence = torch.einsum("c,bnc->bn", model.bag_classifier.weight[2], values)
    expected = (output.weights[branch] * evidence).view(2, 1, 2, 2)
    options = ExplainOptions(feature=f"regions_{branch}")
    for found in explain_batch(model, views, [2], "hirescam", options=options).values():
        torch.testing.assert_close(found[:, 0], expected, atol=1e-6, rtol=1e-4)


def test_feature_level_exchange_pools_with_the_other_attention_too() -> None:
    model, views = _build(cross="feature").eval(), _views()
    x, present = model.stack(views)
    with torch.no_grad():
        output = model(views)
        values = {name: branch(x, present).values for name, branch in model.branches.items()}
        pooled = torch.zeros(2, 64)
        for case in range(2):
            for alpha in output.weights.values():
                for instances in values.values():
                    for n in range(4):
                        pooled[case] += alpha[case, n] * instances[case, n]
        torch.testing.assert_close(model.bag_classifier(pooled), output.logits, atol=1e-5, rtol=1e-5)


def test_attention_maps_lie_on_the_grid_of_tiles() -> None:
    spec = InputSpec(("t2",), "3", (8, 64, 96), 1)
    output = _build(spec).eval()(_views(spec))
    assert [each.name for each in output.attention] == ["alpha_image", "alpha_patch", "alpha"]
    for each in output.attention:
        assert each.weights.shape == (2, 1, 2, 3) and each.normalized_over == (1, 2, 3)
    image, patch, mean = (each.weights for each in output.attention)
    assert image[1, 0, 1, 2] == output.weights["image"][1, 5]
    torch.testing.assert_close(mean, (image + patch) / 2)
    assert not _build(spec).train()(_views(spec)).attention


def test_a_larger_beta_cuts_off_more() -> None:
    views = _views()
    weak, strong = (_build(beta=beta).eval()(views).weights["image"] for beta in (0.1, 1.0))
    assert (weak > 0).all() and (strong == 0).any()
    published = _build(variant="paper", beta=1.0).eval()(views).weights["image"]
    assert (published > 0).all(), "γ counts cells of the map, so that even β = 1 cuts nothing off"


def test_logits_and_attention_are_float32_under_autocast() -> None:
    model, views = _build().train(), _views()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(views)
        terms = model.objective(output, torch.tensor([0, 1]), progress=0.5)
    found = [output.logits, *output.weights.values(), *output.instances.values(), *terms.values()]
    assert {each.dtype for each in found} == {torch.float32}
    assert {output.features[f"{branch}_map"].dtype for branch in ("image", "patch")} == {torch.bfloat16}


@pytest.mark.slow
def test_as_fast_training_runs_it_answers_and_losses_are_those_of_float32(tmp_path: Path) -> None:
    """bfloat16 autocast and channels last, with what this processor computes wrong computed otherwise."""
    model, views = _build(width=0.25).train(), _views()
    fast = copy.deepcopy(model).to(memory_format=torch.channels_last_3d)
    close_views = {name: channels_last(x) for name, x in views.items()}
    shapes = convolutions(fast, lambda trained: _loss(trained, close_views))
    ways = checked_ways(KernelCheck(torch.device("cpu"), tmp_path), shapes)
    loss, gradient, exact = _learned(model, views)
    with torch.autocast("cpu", torch.bfloat16), RoutedConvolutions(ways):
        close_loss, close_gradient, close = _learned(fast, close_views)
    assert close_loss == pytest.approx(loss, rel=0.01)
    assert torch.cosine_similarity(gradient, close_gradient, dim=0) > 0.9
    assert (exact.logits.softmax(1) - close.logits.softmax(1)).abs().max() < 0.02
    for branch, alpha in exact.weights.items():
        assert (close.weights[branch] - alpha).abs().max() < 0.05 * alpha.mean(), branch


def _loss(model: LcaDb, views: dict[str, Tensor]) -> Tensor:
    return model.objective(model(views), torch.tensor([0, 1]), progress=0.5)["total"]


def _learned(model: LcaDb, views: dict[str, Tensor]) -> tuple[float, Tensor, LcaOutput]:
    """Loss and all gradients of a training step, and the answers in evaluation after it."""
    loss = _loss(model, views)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    with torch.no_grad():
        return loss.item(), gradient, model.eval()(views)


def test_phases_shortcuts_and_pool_take_no_wider_maps_along_under_autocast() -> None:
    model, widths = _build().eval(), set()
    handles = [
        module.register_forward_hook(lambda module, inputs, output: widths.add(output.dtype))
        for module in model.branches.modules()
        if not list(module.children())
    ]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(_views())
    for handle in handles:
        handle.remove()
    assert widths == {torch.bfloat16}


# --- the loss -------------------------------------------------------------------------------------------

ALL = LcaObjective(cross_reduction="sum")
NAMES = ["instances_image", "instances_patch", "cross_image", "cross_patch", "similarity"]


def _output(batch: int = 3, tiles: int = 4, classes: int = 5) -> LcaOutput:
    chance = torch.Generator().manual_seed(0)
    instances = {name: torch.randn(batch, tiles, classes, generator=chance) for name in ("image", "patch")}
    weights = {name: torch.rand(batch, tiles, generator=chance) for name in ("image", "patch")}
    weights = {name: value / value.sum(dim=1, keepdim=True) for name, value in weights.items()}
    return LcaOutput(torch.randn(batch, classes, generator=chance), instances=instances, weights=weights)


def _cross_entropy(scores: list[float], label: int) -> float:
    return math.log(sum(math.exp(score) for score in scores)) - scores[label]


def test_terms_equal_their_formulas_instance_by_instance() -> None:
    output, labels = _output(), [4, 0, 2]
    alpha = {name: value.tolist() for name, value in output.weights.items()}
    scores = {name: value.tolist() for name, value in output.instances.items()}
    cases = [(b, n) for b in range(3) for n in range(4)]

    def summed(weights_of: str, losses_of: str) -> float:
        return sum(
            alpha[weights_of][b][n] * _cross_entropy(scores[losses_of][b][n], labels[b]) for b, n in cases
        )

    likeness = [
        sum(x * y for x, y in zip(i, p, strict=True)) / (math.hypot(*i) * math.hypot(*p))
        for i, p in zip(alpha["image"], alpha["patch"], strict=True)
    ]
    expected = {
        "instances_image": summed("image", "image"),
        "instances_patch": summed("patch", "patch"),
        "cross_image": summed("patch", "image"),
        "cross_patch": summed("image", "patch"),
        "similarity": 1 - sum(likeness) / 3,
    }
    raw = branch_terms(output, torch.tensor(labels))
    assert {name: value.item() for name, value in raw.items()} == pytest.approx(expected, rel=1e-5)
    u = 0.036486
    weights = dict(zip(NAMES, (u / 3, u / 3, 0.25 * u, 0.25 * u, 0.25), strict=True))
    terms = ALL(output, torch.tensor(labels), 0.1, _refuse)
    for name in NAMES:
        assert terms[name].item() == pytest.approx(weights[name] * expected[name], rel=1e-4)
    assert terms["total"].item() == pytest.approx(sum(v.item() for k, v in terms.items() if k != "total"))


def _refuse(logits: Tensor, targets: Tensor) -> Tensor:
    raise AssertionError("the study's loss has no part in the paper's")


@pytest.mark.parametrize(
    ("epoch", "u"),
    [
        *((0, 0), (1, 0.002026), (2, 0.002995), (5, 0.008711), (10, 0.036486), (15, 0.099007)),
        *((20, 0.174065), (24, 0.2), (60, 0.2), (100, 0.2)),
    ],
)
def test_ramp_of_the_instance_terms(epoch: int, u: float) -> None:
    assert ALL.ramp(epoch / 100) == pytest.approx(u, abs=5e-7)
    assert ALL.ramp(min((epoch + 0.9) / 100, 1)) == ALL.ramp(epoch / 100), "it steps once an epoch"


def test_the_ramp_may_be_given_in_epochs_or_as_a_share() -> None:
    short = _build(ramp_epochs=12).terms
    assert short.ramp(0.12) == pytest.approx(0.2) and short.ramp(0.05) == pytest.approx(ALL.ramp(0.1))
    half = _build(ramp_share=0.5, epochs=40).terms
    assert half.ramp(0.49) < 0.2 and half.ramp(0.5) == pytest.approx(0.2)
    assert all(one <= two for one, two in pairwise(half.ramp(step / 40) for step in range(41)))


def test_focal_loss_of_the_worked_cases() -> None:
    uniform = torch.zeros(3, 7)
    assert FocalCrossEntropy()(uniform, torch.tensor([0, 3, 6])).item() == pytest.approx(1.4296483, abs=1e-6)
    logits = torch.tensor([[2.0, 0, 0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0, 0, 0]])
    assert FocalCrossEntropy()(logits, torch.tensor([0, 2])).item() == pytest.approx(0.9082653, abs=1e-6)
    gap = torch.tensor([[-200.0, 0, 0, 0, 0, 0, 0]])
    assert FocalCrossEntropy()(gap, torch.tensor([0])).item() == pytest.approx(200, rel=0.01)


def test_similarity_of_the_worked_case() -> None:
    image = torch.tensor([[0.5, 0.5, 0, 0], [1.0, 0, 0, 0]])
    patch = torch.tensor([[0.5, 0.5, 0, 0], [0, 1.0, 0, 0]])
    output = replace(_output(batch=2), weights={"image": image, "patch": patch})
    assert branch_terms(output, torch.tensor([0, 1]))["similarity"].item() == pytest.approx(0.5)


def test_the_mean_of_the_cross_terms_weighs_at_batch_8_what_the_sum_does() -> None:
    targets, output = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]), _output(batch=8)
    mean, total = (
        LcaObjective(cross_reduction=kind)(output, targets, 0.5, _refuse) for kind in ("mean", "sum")
    )
    for name in total:
        torch.testing.assert_close(mean[name], total[name])
    twice = replace(
        output,
        logits=output.logits.repeat(2, 1),
        instances={name: value.repeat(2, 1, 1) for name, value in output.instances.items()},
        weights={name: value.repeat(2, 1) for name, value in output.weights.items()},
    )
    again = LcaObjective()(twice, targets.repeat(2), 0.5, _refuse)
    torch.testing.assert_close(again["total"], mean["total"])


def test_several_findings_give_each_instance_the_mean_of_the_known_ones() -> None:
    logits, nan = _output(batch=2, classes=3).instances["image"], float("nan")
    targets = torch.tensor([[1.0, 0.0, nan], [nan, nan, nan]])
    found = instance_losses(logits, targets)
    for n in range(4):
        a, b, _ = logits[0, n].tolist()
        assert found[0, n].item() == pytest.approx((math.log1p(math.exp(-a)) + math.log1p(math.exp(b))) / 2)
    assert not found[1].any()
    model = _build()
    terms = model.objective(model(_views()), torch.tensor([[1.0, 0, nan, 1], [0, 0, 1, nan]]), progress=0.5)
    assert terms["total"].isfinite()


def _reached(model: LcaDb, term: str) -> set[str]:
    """The parts of the model to which a term sends a gradient."""
    model.zero_grad()
    output = model(_views())
    model.objective(output, torch.tensor([0, 1]), progress=0.5)[term].backward()
    parts = {
        "image": model.branches["image"],
        "patch": model.branches["patch"],
        "linear1": model.attention["image"],
        "linear2": model.attention["patch"],
        "bag": model.bag,
    }
    return {
        name
        for name, part in parts.items()
        if part is not None and any(p.grad is not None and p.grad.any() for p in part.parameters())
    }


@pytest.mark.slow
@both_variants
@pytest.mark.parametrize(
    ("term", "reached"),
    [
        ("classification", {"image", "patch", "linear1", "linear2", "bag"}),
        ("instances_image", {"image", "linear1"}),
        ("instances_patch", {"patch", "linear2"}),
        ("cross_image", {"image", "patch", "linear1", "linear2"}),
        ("cross_patch", {"image", "patch", "linear1", "linear2"}),
        ("similarity", {"image", "patch", "linear1", "linear2"}),
    ],
)
def test_what_each_term_teaches(variant: str, term: str, reached: set[str]) -> None:
    assert _reached(_build(variant=variant).train(), term) == reached


@pytest.mark.parametrize(
    ("name", "options", "terms"),
    [
        ("lca_db10", {}, NAMES),
        ("lca_db10_image", {}, NAMES[:1]),
        ("lca_db10_patch", {}, NAMES[1:2]),
        ("lca_db10_no_cross", {}, [*NAMES[:2], NAMES[4]]),
        ("lca_db10_no_similarity", {}, NAMES[:4]),
        ("lca_db10", {"cross": "feature"}, [*NAMES[:2], NAMES[4]]),
        ("lca_db10", {"cross": "none", "similarity": False}, NAMES[:2]),
    ],
)
def test_terms_of_the_ablations(name: str, options: dict[str, Any], terms: list[str]) -> None:
    model = _build(name=name, **options).train()
    found = model.objective(model(_views()), torch.tensor([0, 1]), progress=0.5)
    assert list(found) == ["classification", *terms, "total"]


def test_the_study_may_choose_the_loss_of_the_bag() -> None:
    model = _build(loss="study")
    output, targets = model(_views()), torch.tensor([0, 3])
    terms = model.objective(output, targets, progress=0.0)
    expected = nn.functional.cross_entropy(output.logits, targets)
    torch.testing.assert_close(terms["classification"], expected)


@both_variants
def test_scores_of_zero_and_everything_cut_off_stay_finite(variant: str) -> None:
    for beta, scale in ((0.1, 0.0), (1e6, 1.0), (0.1, 1e4)):
        model = _build(variant=variant, beta=beta).train()
        with torch.no_grad():
            for head in (*(each.classifier for each in model.attention.values()), model.bag_classifier):
                for parameter in head.parameters():
                    parameter.mul_(scale)
        terms = model.objective(model(_views()), torch.tensor([0, 1]), progress=1.0)
        terms["total"].backward()
        assert all(value.isfinite() for value in terms.values())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- missing phases -------------------------------------------------------------------------------------


def _without(views: dict[str, Tensor], name: str, rows: list[int]) -> dict[str, Tensor]:
    lacking = views[name].clone()
    lacking[rows] = float("nan")
    return views | {name: lacking}


def test_with_all_phases_every_way_of_missing_is_the_same_network() -> None:
    models = [_build(missing=missing).eval() for missing in ("renormalise", "token", "zero")]
    state = models[0].state_dict()
    for model in models[1:]:
        left = model.load_state_dict(state, strict=False)
        assert not left.unexpected_keys and all(key.endswith("stem.token") for key in left.missing_keys)
    full, token, zero = (model(_views()).logits for model in models)
    assert torch.equal(full, token) and torch.equal(full, zero)


def test_renormalising_scales_the_parts_that_are_there() -> None:
    stem = _build().branches["image"].trunk.stem
    x = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    present = torch.tensor([[True, True, True], [True, False, False]])
    x = x * present.view(2, 3, 1, 1, 1)
    expected = torch.zeros(2, 8, 4, 8, 8)
    for case, scale in ((0, 1.0), (1, 3.0)):
        for phase in range(3):
            weight = stem.conv.weight[:, phase : phase + 1]
            expected[case] += scale * nn.functional.conv3d(x[case : case + 1, [phase]], weight, padding=1)[0]
    found = []
    handle = stem.conv.register_forward_hook(lambda module, inputs, result: found.append(result))
    stem(x, present)
    handle.remove()
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("missing", ["renormalise", "token", "zero"])
def test_a_missing_phase_touches_its_own_case_only(missing: str) -> None:
    model, views = _build(missing=missing).eval(), _views()
    with torch.no_grad():
        full, lacking = (model(x).logits for x in (views, _without(views, "dwi", [1])))
    assert lacking.isfinite().all()
    torch.testing.assert_close(lacking[0], full[0])
    assert not torch.allclose(lacking[1], full[1])
    with pytest.raises(UsageError, match="batch positions 0"):
        empty = views
        for name in SMALL.views:
            empty = _without(empty, name, [0])
        model(empty)


def test_a_token_learns_from_cases_that_lack_its_phase() -> None:
    model = _build(missing="token").train()
    output = model(_without(_views(), "dwi", [0]))
    model.objective(output, torch.tensor([0, 1]), progress=0.5)["total"].backward()
    for branch in model.branches.values():
        token = branch.trunk.stem.token
        assert token is not None and token.grad is not None
        assert token.grad.any(dim=1).tolist() == [False, True, False]


# --- options and weights --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "spec", "message"),
    [
        ("lca_db10_image", {"cross": "loss"}, SMALL, "between two branches"),
        ("lca_db10", {"branches": "patch", "similarity": True}, SMALL, "between two branches"),
        ("lca_db10", {"image_stem": 32}, SMALL, "image_stem"),
        ("lca_db10", {"cross": "layer"}, SMALL, "cross"),
        ("lca_db10", {"variant": "paper", "tile": 16}, SMALL, "tiles are of 32 pixels"),
        ("lca_db10", {"tile": 4}, SMALL, "tile"),
        ("lca_db10", {"ramp_share": 0.0}, SMALL, "ramp_share"),
        ("lca_db10", {"ramp": 24}, SMALL, "has no option 'ramp'"),
        ("lca_db10", {"variant": "paper"}, replace(SMALL, size=(8, 48, 48)), "whole tiles of 32"),
        ("lca_db10", {"variant": "paper"}, replace(SMALL, size=(40, 64, 64)), "up to 32 slices"),
        ("lca_db10", {"variant": "paper"}, replace(SMALL, size=(16, 32, 32)), "at least two a side"),
        ("lca_db10", {}, InputSpec(), "takes 3-D input"),
        ("lca_db10", {}, replace(SMALL, channels=3), "volumes of one channel"),
    ],
)
def test_options_and_inputs_that_do_not_fit_are_refused(
    name: str, options: dict[str, Any], spec: InputSpec, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(name, 4, spec, options=THIN | options)


def test_volumes_of_another_size_are_refused() -> None:
    views = _views(replace(SMALL, size=(16, 64, 96)))
    with pytest.raises(UsageError, match=r"takes volumes of \(16, 64, 64\), and was given \(16, 64, 96\)"):
        _build()(views)


def test_nothing_is_published_to_download() -> None:
    with pytest.raises(UsageError, match="no weights of lca_db10 are published"):
        build_model("lca_db10", 4, SMALL, pretrained=True, options=THIN)


def test_branches_share_no_weight() -> None:
    model = _build()
    image, patch = ({id(p) for p in model.branches[name].parameters()} for name in ("image", "patch"))
    assert not image & patch
    assert isinstance(model.branches["patch"], PatchBranch)
