"""Every phantom study with the plain network of its grid, on a phantom of a few patients, for one epoch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foveate.compare.grid import GridPlan
from foveate.compare.results import write_results
from foveate.compare.runs import Shown, train_plan
from foveate.data.phantom import draw_phantom

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "src" / "foveate" / "studies" / "grids"
# Grid → kind of phantom, how it is drawn, and the classes it has.
KINDS: dict[str, tuple[str, dict[str, Any], int]] = {
    "dadrn_phantom": ("ct", {"patients": 20, "slices": 2, "size": 64}, 5),
    "lca_db_phantom": ("liver-mri", {"patients": 28, "size": 32, "missing": 0.1}, 7),
    "agf_phantom": ("paired", {"patients": 24, "size": 64, "missing": 0.2}, 4),
    "can_phantom": ("chest", {"patients": 40, "cases": 1, "size": 64}, 6),
    "cervical_phantom": ("cells", {"patients": 20, "cases": 2, "size": 64}, 5),
}


def shortened(name: str, manifest: Path) -> GridPlan:
    """The grid's reference and base study on a small phantom, with one epoch and a short bootstrap."""
    plan = GridPlan.of_grid(FOLDER / f"{name}.yaml")
    base = next(
        label for label, study in plan.variants.items() if label in ("both", "full", "all", "CA all dense")
    )
    chosen = {}
    for label in ("plain", base):
        content = plan.variants[label].model_dump()
        content["data"]["manifest"] = manifest
        if content["data"]["boxes"]:
            content["data"]["boxes"] = manifest.with_name("boxes.csv")
        content["split"] |= {"test": 0.35, "val": 0.35}
        content["train"] |= {"epochs": 1, "warmup_epochs": 0, "monitor": "val_loss"}
        content["evaluate"]["bootstrap"] = 100
        content["explain"]["limit"] = 4
        chosen[label] = type(plan.base).model_validate(content)
    return replace(plan, variants=chosen, seeds=(0,))


@pytest.mark.parametrize("name", KINDS)
def test_a_phantom_grid_goes_the_whole_way(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    kind, options, classes = KINDS[name]
    plan = shortened(name, draw_phantom(kind, tmp_path / "phantom", options))
    trained = train_plan(plan, tmp_path / "out", Shown())
    assert trained.failures == [] and trained.notes == []
    result = write_results(plan, tmp_path / "out", trained).to_json()
    assert result == json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(result["figures"]) == 2
    for label, found in result["figures"].items():
        assert 0 <= found["balanced_accuracy"]["value"] <= 1
        assert 0 <= found["pointing_game"]["value"] <= 1, f"{label} was not tested against the truth"
        run = tmp_path / "out" / result["variants"][label]["runs"]["0"]
        metrics = json.loads((run / "metrics.json").read_text())
        assert len(metrics["classes"]) == classes
    for view in plan.without:
        lacking = result["without"][view]
        assert set(lacking) == set(plan.variants)
        for label, found in lacking.items():
            whole = result["figures"][label]["balanced_accuracy"]["value"]
            lost = found["differences"]["balanced_accuracy"]["value"]
            assert found["figures"]["balanced_accuracy"]["value"] <= 1 and abs(lost) <= max(whole, 1 - whole)
        assert f"## Without {view}" in (tmp_path / "out" / "comparison.md").read_text()
