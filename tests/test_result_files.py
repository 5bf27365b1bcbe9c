"""Result files: what is written is read back, older files open, and what is wrong is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from foveate.errors import InputRefused
from foveate.evaluate.intervals import Value
from foveate.evaluate.results.file import Part, ResultFile

ROOT = Path(__file__).parents[1]


class Inner(Part):
    names: tuple[str, ...]
    later: int | None = None


class Example(ResultFile):
    NAME: ClassVar[str] = "example.json"
    MADE_BY: ClassVar[str] = "example"

    figures: dict[str, Value]
    inner: Inner


VALUE = Value(0.5, None, 0.75, 3, 2, "few")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = Example(figures={"auroc": VALUE}, inner=Inner(names=("a", "b")))
    assert Example.read(tmp_path) is None
    made.write(tmp_path)
    content = json.loads((tmp_path / "example.json").read_text())
    assert content == {
        "format": 1,
        "figures": {"auroc": VALUE.to_json()},
        "inner": {"names": ["a", "b"], "later": None},
    }
    back = Example.read(tmp_path)
    assert back is not None and back.figures == made.figures and back.inner == made.inner and back.format == 1


def test_files_of_an_older_version_open_and_unknown_keys_are_passed_over(tmp_path: Path) -> None:
    old = {"figures": {}, "inner": {"names": []}, "gone": 3}
    (tmp_path / "example.json").write_text(json.dumps(old))
    found = Example.read(tmp_path)
    assert found is not None and found.format == 0 and found.inner.later is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "Expecting property name"),
        ("[]", "the file: Input should be"),
        ('{"figures": {"auroc": {"value": "x"}}, "inner": {"names": []}}', "figures.auroc.value"),
        ('{"figures": {}}', "inner: Field required"),
        ('{"format": 2, "figures": {}, "inner": {"names": []}}', "its format 2 is newer than 1"),
    ],
)
def test_what_is_no_such_file_is_refused_with_the_place(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "example.json").write_text(text)
    with pytest.raises(InputRefused) as caught:
        Example.read(tmp_path)
    assert problem in caught.value.what and str(tmp_path / "example.json") in str(caught.value)
    assert "run `foveate example" in str(caught.value)


def test_published_schemas_are_those_of_the_classes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "schemas.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
