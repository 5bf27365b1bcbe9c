"""One case end to end: the answer, and heat maps in the pixels of the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from foveate.bundle.bundle import Bundle, Patients
from foveate.cli import terminal
from foveate.cli.single import show_answer
from foveate.deploy.engines.bundled import facts_of
from foveate.deploy.engines.single import FileAnswer
from foveate.errors import InputRefused, UsageError
from foveate.evaluate.table import read_predictions, write_predictions
from foveate.models import build_model
from foveate.predict import (
    explain_case,
    explain_prepared,
    predict_case,
    predict_prepared,
    read_and_prepare,
)
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from foveate.types import Case


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    torch.manual_seed(0)
    preprocess = Preprocess(PreprocessConfig(size=(32, 32)))
    options = {"width": 0.125, "depths": (1, 1, 1, 1)}
    model = build_model("drn50", 3, preprocess.input_spec(("image",)), options=options).eval()
    return Bundle(
        model, "drn50", options, preprocess, ("image",), "multiclass", ("a", "b", "c"), Patients.of([])
    )


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    found = []
    for number, shape in enumerate([(40, 60), (60, 40), (33, 33)]):
        path: Path = folder / f"{number}.png"
        Picture.fromarray(draws.integers(0, 255, shape, dtype=np.uint8)).save(path)
        found.append(Case(f"c{number}", "p", {"image": path}, label="b"))
    return found


def test_one_case_is_a_batch_of_one(bundle: Bundle, cases: list[Case]) -> None:
    together = predict_prepared(bundle, [read_and_prepare(bundle, case) for case in cases])
    for case, prediction in zip(cases, together, strict=True):
        alone = predict_case(bundle, case)
        np.testing.assert_allclose(alone.logits, prediction.logits, rtol=1e-4, atol=1e-6)
        assert alone.case_id == case.case_id
        np.testing.assert_array_equal(alone.truth, [0, 1, 0])
        exponents = np.exp(alone.logits - alone.logits.max())
        np.testing.assert_allclose(alone.probabilities, exponents / exponents.sum(), rtol=1e-9)


def test_heat_maps_have_the_shape_of_the_file(bundle: Bundle, cases: list[Case]) -> None:
    (found,) = explain_case(bundle, cases[0])
    predicted = bundle.classes[int(predict_case(bundle, cases[0]).probabilities.argmax())]
    assert found.values.shape == (40, 60) and found.values.dtype == np.float32
    assert (found.target, found.view, found.explainer, found.case_id) == (predicted, "image", "gradcam", "c0")


def test_each_case_is_explained_for_its_own_targets(bundle: Bundle, cases: list[Case]) -> None:
    prepared = [read_and_prepare(bundle, case) for case in cases]
    targets = [["c"], ["a", "b"], ["b"]]
    together = explain_prepared(bundle, prepared, targets, explainer="gradcam")
    for case, names, maps in zip(cases, targets, together, strict=True):
        alone = explain_case(bundle, case, targets=names)
        assert [item.target for item in maps] == names
        for one, other in zip(alone, maps, strict=True):
            np.testing.assert_allclose(one.values, other.values, rtol=1e-3, atol=1e-7)


def test_what_cannot_be_done_is_refused(bundle: Bundle, cases: list[Case]) -> None:
    with pytest.raises(InputRefused, match="missing: image"):
        predict_case(bundle, replace(cases[0], views={}))
    with pytest.raises(InputRefused, match="label 'z' is not one that the model learned"):
        predict_case(bundle, replace(cases[0], label="z"))
    with pytest.raises(UsageError, match="no class 'z'"):
        explain_case(bundle, cases[0], targets=["z"])
    assert np.isnan(predict_case(bundle, replace(cases[0], label=None)).truth).all()


def test_what_readers_notice_is_told_with_the_answer(
    bundle: Bundle, cases: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture with transparency that is opaque everywhere: in the prediction, the table, and in words."""
    pixels = np.full((20, 20, 4), 255, np.uint8)
    Picture.fromarray(pixels).save(tmp_path / "alpha.png")
    case = Case("odd", "p", {"image": tmp_path / "alpha.png"})
    found = [predict_case(bundle, each) for each in (cases[0], case)]
    assert [item.noticed for item in found] == [(), ("alpha-dropped",)]
    write_predictions(tmp_path / "p.csv", "multiclass", bundle.classes, found)
    table = read_predictions(tmp_path / "p.csv")
    assert table.noticed == ("", "alpha-dropped")
    terminal.show_noticed(table.noticed)
    assert "noticed in 1 of 2 cases: transparency that was opaque" in capsys.readouterr().out
    show_answer(facts_of(bundle), {}, FileAnswer(found[1]))
    assert "noticed: transparency that was opaque" in capsys.readouterr().out
