"""The README's own-data steps, run as they stand: its commands, its study, its Python."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from foveate.cli import app as cli
from foveate.data.manifest.manifest import load_manifest
from foveate.data.phantoms.ct import make_phantom
from foveate.types import Case

pytestmark = pytest.mark.slow

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
SMALLER = {"size: [224, 224]": "size: [48, 48]", "epochs: 30": "epochs: 1"}  # the only changes,
FEWER = """
explain: {limit: 12}
evaluate: {bootstrap: 200}
probe: {cases: 12}
trust: {cases: 8}
"""  # but for these additions: what takes long on so small a study is asked of fewer cases


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[list[str]]:
    for block in blocks("console"):
        for line in block.splitlines():
            assert line.startswith("$ foveate "), line
            yield shlex.split(line.removeprefix("$ foveate "), comments=True)


def two_classes(manifest: Path) -> Iterator[tuple[str, Case]]:
    """The cases of a phantom that are called benign or malignant here."""
    for case in load_manifest(manifest).cases:
        if label := {"cyst": "benign", "HCC": "malignant"}.get(case.label or ""):
            yield label, case


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``images/benign``, ``images/malignant``, two new images, and another cohort's CSV."""
    source = make_phantom(tmp_path / "source", patients=90, slices=1, size=64, format="png")
    for label, case in two_classes(source):
        folder = tmp_path / "work" / "images" / label
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(case.views["image"], folder)
    shutil.copy(next((tmp_path / "source" / "images").iterdir()), tmp_path / "work" / "new.png")
    other = make_phantom(tmp_path / "work" / "other", patients=90, slices=1, size=64, format="png", seed=1)
    lines = ["case_id,patient_id,label,image"]
    for label, case in two_classes(other):
        path = case.views["image"].relative_to(tmp_path / "work")
        lines.append(f"{case.case_id},other-{case.patient_id},{label},{path}")
    (tmp_path / "work" / "other.csv").write_text("\n".join(lines))
    shutil.copy(tmp_path / "work" / path, tmp_path / "work" / "newer.png")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_the_own_data_steps_work_as_written(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study,) = blocks("yaml")
    for old, new in SMALLER.items():
        assert old in study
        study = study.replace(old, new)
    study += FEWER
    done = []
    for command in commands():
        cli.app(command, standalone_mode=False)
        if command[0] == "init":
            assert Path("study.yaml").is_file()
            Path("study.yaml").write_text(study, encoding="utf-8")
        done.append(command[0])
    assert {"manifest", "init", "run", "audit", "split", "train", "predict", "test", "report"} <= set(done)
    run = workplace / "runs" / "study"
    for name in ("audit.json", "splits.json", "predictions.csv", "metrics.json", "boxes.csv", "report.html"):
        assert (run / name).stat().st_size > 0
    capsys.readouterr()
    (python,) = blocks("python")
    exec(compile(python, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "benign" in printed and "malignant" in printed


def test_the_manifest_in_the_readme_is_valid(tmp_path: Path) -> None:
    (table,) = blocks("csv")
    rows = [line.split(",") for line in table.split()]
    source = make_phantom(tmp_path / "source", patients=5, slices=1, size=64, format="png")
    case = next(case for case in load_manifest(source).cases if case.mask)
    for row in rows[1:]:
        for text, original in zip(row[3:], (case.views["image"], case.mask), strict=True):
            if text and original:
                (tmp_path / text).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(original, tmp_path / text)
    (tmp_path / "manifest.csv").write_text(table)
    cohort = load_manifest(tmp_path / "manifest.csv")
    assert cohort.classes == ("benign", "malignant")
    assert len({case.patient_id for case in cohort.cases}) == 2
