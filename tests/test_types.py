"""The nouns: truth vectors, boxes, empty maps; the public names; the errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import foveate
from foveate import errors
from foveate.types import Box, Case, Cohort, Heatmap


def cohort(task: str, case: Case) -> Cohort:
    return Cohort((case,), task, ("cyst", "hcc"), ("image",), Path("m.csv"), "0")  # type: ignore[arg-type]


def test_truth_vectors() -> None:
    labelled, bare = Case("a", "p", {}, label="hcc"), Case("a", "p", {})
    np.testing.assert_array_equal(cohort("multiclass", labelled).target(labelled), [0, 1])
    assert np.isnan(cohort("multiclass", bare).target(bare)).all()
    partly = Case("a", "p", {}, findings={"cyst": 1, "hcc": None})
    np.testing.assert_array_equal(cohort("multilabel", partly).target(partly), [1, np.nan])


def test_box_in_the_usual_order() -> None:
    assert Box((10, 20), (13, 27)).xywh == (20, 10, 7, 3)
    assert Box((5, 10, 20), (6, 13, 27)).xywh == (20, 10, 7, 3)


@pytest.mark.parametrize(
    ("values", "empty"), [([[0.0, 0.0]], True), ([[-1.0, 0.0]], True), ([[-1.0, 1e-9]], False)]
)
def test_a_map_without_positive_evidence_is_empty(values: list[list[float]], empty: bool) -> None:
    assert Heatmap(np.array(values, np.float32), "hcc", "gradcam", "image").empty is empty


def test_public_names_load_and_are_few() -> None:
    assert len(foveate.__all__) <= 14
    for name in foveate.__all__:
        assert callable(getattr(foveate, name)), name
    with pytest.raises(AttributeError):
        _ = foveate.nonsense


def test_importing_the_package_brings_no_torch() -> None:
    code = "import foveate, foveate.cli, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_errors_say_what_where_and_the_way_out() -> None:
    error = errors.InputRefused("truncated", where="a.png", fix="copy it again", code="truncated")
    assert str(error) == "a.png: truncated\n  → copy it again"
    assert (
        errors.UsageError("x").exit_code,
        error.exit_code,
        errors.RunFailed("x").exit_code,
        errors.Partial("x").exit_code,
    ) == (2, 3, 4, 5)
    many = errors.ManifestRefused("m.csv", ["row 2: no file", "row 5: no label"])
    assert "2 problems" in str(many) and "row 5: no label" in str(many)
    assert "pip install 'foveate[tensorboard]'" in str(errors.MissingExtra("tensorboard"))
