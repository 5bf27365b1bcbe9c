"""A whole run, in one process: its manifest is parsed once, each image's header read once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from foveate.cli.run import whole_way
from foveate.data.manifest import manifest, paths
from foveate.data.phantoms.ct import make_phantom
from foveate.stations.run import Run
from foveate.study.study import Study


@pytest.mark.slow
def test_a_whole_run_reads_its_manifest_and_each_header_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    make_phantom(tmp_path / "phantom", patients=20, slices=1, size=48)
    study = Study.model_validate(
        {
            "name": "once",
            "data": {"manifest": tmp_path / "phantom" / "manifest.csv"},
            "split": {"test": 0.3, "val": 0.3},
            "preprocess": {"size": (32, 32)},
            "model": {"name": "timm:test_resnet"},
            "train": {"epochs": 1, "batch_size": 8, "plan": "off", "precision": "32"},
            "evaluate": {"bootstrap": 100},
            "probe": {"cases": 4},
            "trust": {"methods": ["gradcam"], "cases": 4},
        }
    )
    tables, headers = Counter[str](), Counter[str]()
    read_table, probe = manifest.read_table, paths.probe
    monkeypatch.setattr(
        manifest, "read_table", lambda path: (tables.update([path.name]), read_table(path))[1]
    )
    monkeypatch.setattr(
        paths, "probe", lambda path, **how: (headers.update([str(path)]), probe(path, **how))[1]
    )
    run = Run.create(study, tmp_path / "run")
    whole_way(run)
    assert (run.folder / "report.html").is_file()
    assert tables == {"manifest.csv": 1}
    assert len(headers) >= 20 and set(headers.values()) == {1}
