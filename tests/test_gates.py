"""The contracts between rooms see what they shall: faults planted in a copy of the code are found."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def rooms() -> set[str]:
    """Names at the top of the package, without the files of studies."""
    return {
        each.stem
        for each in (ROOT / "src" / "foveate").iterdir()
        if each.stem not in ("__init__", "__pycache__", "py", "studies")
    }


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["lint-imports", "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("file", "text", "broken"),
    [
        ("newroom/__init__.py", "from foveate.cli import app\n", "Rooms import one way"),
        ("stations/planted.py", "import lightning\n", "Only training imports Lightning"),
        ("prepare/planted.py", "from monai.transforms import Resize\n", "Only augmentation imports MONAI"),
        ("evaluate/planted.py", "def late():\n    import torch\n", "reports run without torch"),
    ],
)
def test_a_planted_fault_is_found(copied: Path, file: str, text: str, broken: str) -> None:
    planted = copied / "src" / "foveate" / file
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(text)
    done = linted(copied)
    planted.unlink()
    if planted.name == "__init__.py":
        planted.parent.rmdir()
    verdicts = re.findall(r"^(.+) (KEPT|BROKEN)\b", done.stdout, flags=re.MULTILINE)
    states = [state for name, state in verdicts if broken in name]
    assert done.returncode == 1 and states == ["BROKEN"], done.stdout


def test_contracts_name_every_room() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    lightning = next(each for each in contracts if each["name"] == "Only training imports Lightning")
    assert {name.removeprefix("foveate.") for name in lightning["source_modules"]} == rooms() - {"train"}
    layers = {name.strip() for line in contracts[0]["layers"] for name in line.split("|")}
    assert layers == rooms() and len(rooms()) <= 24


def test_no_class_name_stands_twice() -> None:
    names = Counter(
        node.name.lstrip("_")
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in names.items() if count > 1]


LIBRARIES = (
    "monai",
    "timm",
    "torchvision",
    "captum",
    "sklearn",
    "scipy.stats",
    "scipy.optimize",
    "matplotlib",
)
FORMATS = ("pydicom", "nibabel", "pandas", "lightning")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("foveate.predict", (*LIBRARIES, *FORMATS)),
        ("foveate.cli.app", ("torch", "scipy", "pydantic", *LIBRARIES, *FORMATS)),
    ],
)
def test_libraries_are_imported_where_they_are_used(module: str, absent: tuple[str, ...]) -> None:
    """What one picture does not need is not waited for."""
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
