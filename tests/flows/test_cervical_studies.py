"""The studies of the cervical comparison, from the command in their head to heat maps, on miniatures."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import source_trees
from foveate.contract import InputSpec
from foveate.data.sources import SOURCES, write_source
from foveate.maps.heatmaps import read_index
from foveate.models import build_model
from foveate.stations.audit import audit
from foveate.stations.evaluate import evaluate
from foveate.stations.explain import explain
from foveate.stations.predict import predict
from foveate.stations.run import Run
from foveate.stations.split import split
from foveate.stations.train import train
from foveate.study.study import Study

FOLDER = Path(__file__).parents[2] / "src" / "foveate" / "studies"
SMALL = {"depths": [1, 1, 1, 2], "growth": 8}
TREES: dict[str, Callable[[Path], Path]] = {
    "cervical_multicell": lambda root: source_trees.sipakmed(root, slides=10),
    "cervical_masked": lambda root: source_trees.sipakmed(root, slides=10),
    "cervical_herlev": lambda root: source_trees.herlev(root, each=10),
}
PARTS = {  # of each class: int(0.7 n), int(0.2 n), the rest; and int(0.2 n), the rest
    "cervical_multicell": {"train": 35, "val": 10, "test": 5},
    "cervical_masked": {"train": 35, "val": 10, "test": 5},
    "cervical_herlev": {"train": 14, "test": 56},
}


def listed(name: str, root: Path) -> Path:
    """The manifest that the source command in a study's head writes, at the place that it names."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    command = re.search(r"foveate source (\S+) ROOT -o (\S+)(.*)", text)
    assert command is not None
    options = dict(re.findall(r"--option (\w+)=(\w+)", command[3]))
    return write_source(SOURCES[command[1]], root, root / command[2], options=options).manifest


def tiny(name: str, root: Path) -> Study:
    """The shipped study with a small network on small pictures, for one epoch."""
    content = Study.load(FOLDER / f"{name}.yaml").model_dump()
    manifest = listed(name, TREES[name](root))
    assert content["data"]["manifest"].name == manifest.name, "the study reads what its head writes"
    content["data"]["manifest"] = manifest
    content["preprocess"]["size"] = [64, 64]
    content["train"] |= {"epochs": 1, "batch_size": 8, "plan": "off"}
    content["evaluate"]["bootstrap"] = 100
    content["explain"]["limit"] = 2
    if name == "cervical_herlev":
        torch.manual_seed(0)
        cells = build_model("timm:test_resnet", 5, InputSpec(size=(64, 64)))
        save_file(cells.state_dict(), root / Path(content["model"]["pretrained"]).name)
        content["model"] |= {"name": "timm:test_resnet"}
        content["model"]["pretrained"] = str(root / Path(content["model"]["pretrained"]).name)
    else:
        content["model"]["pretrained"] = False
        content["model"]["options"] |= SMALL
    return Study.model_validate(content)


@pytest.mark.slow
@pytest.mark.parametrize("name", TREES)
def test_a_cervical_study_goes_from_its_source_to_heat_maps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    run = Run.create(tiny(name, tmp_path), tmp_path / "run")
    assert run.study.preprocess.mask == ("otsu_dark" if name == "cervical_masked" else "none")
    parts = Counter(case.split for case in run.cohort().cases)
    assert parts == PARTS[name]
    audit(run).raise_if_stopped()
    split(run)
    train(run)
    predict(run)
    metrics = evaluate(run)
    assert metrics.n == PARTS[name]["test"]
    assert json.loads((run.folder / "metrics.json").read_text())["classes"]
    assert explain(run) > 0
    assert {entry.explainer for entry in read_index(run.folder / "heatmaps")} == {"gradcam"}
