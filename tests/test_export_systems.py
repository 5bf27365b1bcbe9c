"""The systems as graphs for any batch and image size, with maps of classes also where they take gradients."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from foveate.bundle.bundle import Bundle, Patients
from foveate.contract import Classifier
from foveate.deploy.engines.bundled import Bundled, facts_of
from foveate.deploy.engines.facts import Facts, attention_over, maps_over, prepared_of
from foveate.deploy.export import graph
from foveate.deploy.export.graph import to_onnx, traced
from foveate.deploy.export.pipeline import Pipeline
from foveate.errors import RunFailed
from foveate.explain.explainers import explain_batch
from foveate.prepare.preprocess import Preprocess
from foveate.stations.export import _writer
from foveate.study.settings import PreprocessConfig
from zoo import ZOO

pytestmark = pytest.mark.slow

CLASSES = ("a", "b", "c", "d")
SIDES = {2: (70, 41), 3: (5, 40, 33)}  # of no network here


def bundle_of(name: str) -> Bundle:
    tiny = ZOO[name]
    model = tiny.build().eval()
    preprocess = Preprocess(PreprocessConfig(size=tiny.spec.size))
    views, patients = tiny.spec.views, Patients.of(["p"])
    return Bundle(model, tiny.name, dict(tiny.options), preprocess, views, "multiclass", CLASSES, patients)


def inputs_for(facts: Facts, cases: int) -> tuple[Tensor, ...]:
    """Noise; the last case lacks the last view if it may."""
    generator, sides = torch.Generator().manual_seed(1), SIDES[len(facts.preprocess.size)]
    channels = 3 if len(sides) == 2 else 1
    given = [
        torch.rand(cases, channels, *sides, generator=generator)
        if name in facts.views
        else torch.tensor([[0.0, 1.0]] * cases)
        for name in facts.input_names()
    ]
    if facts.tolerates_missing and len(facts.views) > 1:
        given[facts.input_names().index(facts.views[-1])][-1] = torch.nan
    return tuple(given)


def check(model: Classifier, facts: Facts, found: dict[str, Tensor]) -> None:
    """Logits and Grad-CAM of the network itself, on what the graph says that it sees."""
    views = {view: found[prepared_of(view)] for view in facts.views}
    assert all(tuple(x.shape[2:]) == tuple(facts.preprocess.size) for x in views.values())
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], model(views).logits, rtol=1e-3, atol=1e-4)
    expected = explain_batch(model, views, range(len(CLASSES)), "gradcam")
    for view in facts.views:
        maps, whole = found[maps_over(view)], expected[view]
        assert whole.abs().amax() > 0
        torch.testing.assert_close(maps, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))
    if facts.tolerates_missing and len(facts.views) > 1:
        assert not found[maps_over(facts.views[-1])][-1].any(), "the last case lacks this view"


@pytest.mark.parametrize("name", ["dadrn50", "agf", "timm:convnext_atto"])
def test_a_traced_network_gives_its_maps_for_any_batch_and_size(name: str) -> None:
    bundle = bundle_of(name)
    facts = facts_of(bundle)
    program, names = traced(Pipeline(bundle).eval().requires_grad_(False), facts)
    found = program.module(check_guards=False)(inputs_for(facts, 3))
    check(bundle.model, facts, dict(zip(names, found.values(), strict=True)))


def test_two_branches_become_onnx_with_their_maps() -> None:
    bundle = bundle_of("lca_db10")
    facts = facts_of(bundle)
    model = to_onnx(*traced(Pipeline(bundle).eval().requires_grad_(False), facts), facts)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    inputs = dict(zip(facts.input_names(), inputs_for(facts, 3), strict=True))
    names = [each.name for each in session.get_outputs()]
    assert {attention_over(view) for view in facts.views} <= set(names)
    arrays = session.run(names, {key: values.numpy() for key, values in inputs.items()})
    found = {key: torch.from_numpy(np.asarray(values)) for key, values in zip(names, arrays, strict=True)}
    check(bundle.model, facts, found)


def test_a_graph_can_do_without_maps() -> None:
    bundle = bundle_of("timm:convnext_atto")
    pipeline = Pipeline(bundle, class_maps=False).eval()
    assert not pipeline.explains
    found = pipeline(inputs_for(facts_of(bundle), 2))
    assert {"logits", "probabilities", "decision", "prepared:ct"} == set(found)


def test_what_no_graph_can_hold_is_left_out_and_other_failures_are_not_tried_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise NotImplementedError("no such operation")

    monkeypatch.setattr(graph, "with_backward_pass", fails)
    facts, _ = _writer(Bundled(bundle_of("timm:convnext_atto")), "torch", ())
    assert facts.explainer == ""
    linear, tried = Bundled(bundle_of("timm:resnet18")), []
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: tried.append(1) or fails())
    with pytest.raises(RunFailed, match="no such operation"):
        _writer(linear, "torch", ())
    assert tried == [1]
