"""What the project's papers say of the project: versions, commands, exit codes, links."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

import foveate
from foveate import errors
from foveate.cli import demo
from foveate.cli.app import app
from foveate.compare.grid import GridConfig
from foveate.study.search_space import SearchSpace
from foveate.study.study import Study
from foveate.study.yaml_file import validated

ROOT = Path(__file__).resolve().parents[1]
PAPERS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]


def project() -> dict[str, Any]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert isinstance(settings, dict)
    return settings


def lengths_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("function_lengths", ROOT / ".ci" / "function_lengths.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_constraints_name_every_dependency_within_its_bounds() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = dict(line.split("==") for line in lines)
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    extras = project()["optional-dependencies"].values()
    needed = [Requirement(text) for group in [project()["dependencies"], *extras] for text in group]
    needed = [item for item in needed if item.name != "foveate"]
    assert {canonicalize_name(item.name) for item in needed} == set(pinned)
    for item in needed:
        assert item.specifier.contains(pinned[canonicalize_name(item.name)]), item


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project()["version"] == foveate.__version__ == citation["version"]
    assert f"\n## {foveate.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_citation_has_what_its_format_requires() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == project()["license"] == "Apache-2.0"
    for entry in [citation, *citation["references"]]:
        assert entry["type"] and entry["title"]
        assert all({"name"} <= set(author) or {"family-names"} <= set(author) for author in entry["authors"])


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_papers_lead_somewhere(paper: Path) -> None:
    visible = re.sub(r"<!--.*?-->", "", paper.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", visible):
        if not target.startswith("https://"):
            assert (paper.parent / target).exists(), target


def test_every_command_is_documented() -> None:
    names = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = (ROOT / "docs" / "commands.md").read_text()
    assert {name for name in names if f"`foveate {name}" in text or f"`{name}`" in text} == names
    said = {
        name
        for paper in PAPERS
        for name in re.findall(r"(?:`|\$ |^)foveate ([a-z]+)", paper.read_text(), re.M)
    }
    assert said <= names


def test_every_exit_code_is_documented() -> None:
    codes = {item.exit_code for item in vars(errors).values() if hasattr(item, "exit_code")}
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "commands.md").read_text(), re.M)
    assert codes | {0, 130, 143} == {int(row) for row in rows}


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_short_and_valid(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40
    assert Study.load(path).name == path.stem


def test_the_study_of_the_demo_is_one_of_the_shipped_ones() -> None:
    assert demo._STUDY.is_file()
    assert demo._STUDY.name in {path.name for path in (ROOT / "studies").glob("*.yaml")}


def test_studies_in_the_documents_are_valid(tmp_path: Path) -> None:
    count = 0
    for paper in PAPERS:
        for block in re.findall(r"^```yaml\n(.*?)^```", paper.read_text(), re.M | re.DOTALL):
            count += 1
            if "\nvariants:" in block:  # a grid
                validated(GridConfig, yaml.safe_load(block), tmp_path, paper.name, "grid")
                continue
            (tmp_path / "study.yaml").write_text(block)
            if "\nparameters:" in block:  # what `foveate search` tries
                SearchSpace.load(tmp_path / "study.yaml")
                continue
            Study.load(tmp_path / "study.yaml")
    assert count >= 2


def test_the_length_check_counts_code_and_finds_what_is_too_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = lengths_check()
    (tmp_path / "short.py").write_text(
        'def f(a, b):\n    """Say.\n\n    More.\n    """\n    # why\n\n    return a\n'
    )
    assert check.main(tmp_path) == 0
    assert "at most 2 lines" in capsys.readouterr().out
    (tmp_path / "long.py").write_text("def g(a, b, c, d, e, f, g):\n" + "    a += 1\n" * 31)
    assert check.main(tmp_path) == 1
    said = capsys.readouterr().out
    assert "7 positional arguments" in said and "90th percentile" in said


def _shown(value: object) -> str:
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)


def test_the_study_page_has_every_key_with_its_default() -> None:
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    for section, facts in Study.model_fields.items():
        if not isinstance(facts.annotation, type) or not issubclass(facts.annotation, BaseModel):
            continue
        text = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
        for key, info in facts.annotation.model_fields.items():
            default = (
                "needed" if info.is_required() else f"`{_shown(info.get_default(call_default_factory=True))}`"
            )
            assert f"| `{key}` | {default} |" in text, f"{section}.{key}: {default}"
