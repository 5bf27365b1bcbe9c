"""A network trained on the phantom with a planted marker, and one on its twin without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foveate.data.phantom import draw_phantom
from foveate.report.build import write_report
from foveate.stations.audit import audit
from foveate.stations.probe import probe
from foveate.stations.run import Run
from foveate.stations.split import split
from foveate.stations.train import train
from foveate.stations.trust import trust
from foveate.study.study import Study

pytestmark = pytest.mark.slow


def probed(folder: Path, *, shortcut: bool, epochs: int) -> dict[str, Any]:
    options = {"patients": 70, "slices": 2, "size": 64, "seed": 3, "difficulty": 0.2, "format": "png"}
    manifest = draw_phantom("ct", folder / "phantom", {**options, "shortcut": shortcut})
    study = Study.model_validate(
        {
            "name": "shortcut",
            "data": {"manifest": manifest},
            "split": {"test": 0.4, "val": 0.2},
            "preprocess": {"size": (64, 64), "window": (964, 1400)},
            "model": {"name": "timm:test_resnet"},
            "train": {
                "epochs": epochs,
                "batch_size": 16,
                "lr": 3e-3,
                "accelerator": "cpu",
                "precision": "32",
            },
            "evaluate": {"bootstrap": 200},
            "trust": {"methods": ["gradcam"], "cases": 8},
        }
    )
    run = Run.create(study, folder / "run")
    audit(run).raise_if_stopped()
    split(run)
    train(run)
    found = probe(run).to_json()
    card = trust(run).to_json()
    assert card["flags"] == [item["sentence"] for item in found["shortcuts"]]
    assert ("use a shortcut" in card["methods"]["gradcam"]["verdict"]["sentence"]) == bool(card["flags"])
    page = write_report(run.folder).read_text(encoding="utf-8")
    assert all(shortcut["sentence"] in page for shortcut in found["shortcuts"])
    return found


@pytest.mark.parametrize("shortcut", [True, False])
def test_the_planted_marker_is_named_and_its_twin_is_not(shortcut: bool, tmp_path: Path) -> None:
    found = probed(tmp_path, shortcut=shortcut, epochs=12 if shortcut else 20)
    assert bool(found["shortcuts"]) == shortcut
    if shortcut:
        first = found["shortcuts"][0]
        assert first["kind"] == "marker" and first["interval"][0] > 0
        places = {item["where"]["position"] for item in found["shortcuts"]}
        assert places & {"top left", "top right", "bottom left", "bottom right", "top"}
        assert [leak["kind"] for leak in found["leaks"]] == ["background"]
    else:
        assert found["leaks"] == [] and found["sentences"][0].startswith("No shortcut was found")
