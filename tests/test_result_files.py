"""Result files: what is written is read back, older files open, and what is wrong is refused by name."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import pytest

from foveate.errors import InputRefused
from foveate.evaluate import results
from foveate.evaluate.intervals import Value
from foveate.evaluate.results.file import Part, ResultFile
from foveate.report.files import RunFiles

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


@pytest.mark.slow
def test_published_schemas_are_those_of_the_classes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "schemas.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- no key of a result file outside its class -----------------------------------------------------------

READERS = (
    "report",
    "cli",
    "compare",
    "stations",
    "evaluate/localization/wording.py",
    "evaluate/comparing/wording.py",
    "evaluate/shift/wording.py",
)
"""Everything that is made of result files."""
OTHERS = {
    "study.yaml": {"files.study", "run.study", "self.study or {}", "data"},
    "bundle.json": {"files.bundle", "files.bundle or {}", "bundle", "facts", "fit", "check", "done[0]"},
    "a mapping by part of the cohort": {"parts", "by_part", "count_parts"},
    "a row of a table, of a CSV or of a grid": {"row"},
}
"""What else is indexed by words that are keys of result files too, and what it is called in the code."""
HERE = {
    "compare/jobs.py": {"content"},  # what a scheduler's job is told
    "compare/search.py": {"trials[-1].facts"},
    "report/comparing/case_rows.py": {"found"},  # scores of one case, of localization.csv
    "report/sections/calibration.py": {"found"},  # the calibration in bundle.json
    "report/sections/cohort.py": {"files.run.stations"},  # by the name of the command
    "stations/probe.py": {"row.values"},  # a row of the table of boxes
    "stations/shift.py": {"forms", "found.p", "found.per_class", "json.loads"},  # bundle.json, statistics
    "stations/shortcuts": None,  # figures as arrays by name, before probes.json is made of them
}
"""The same of single files; None for all that is in them."""


def classes_of_files() -> list[type[ResultFile]]:
    for module in pkgutil.iter_modules(results.__path__):
        importlib.import_module(f"{results.__name__}.{module.name}")
    own = [cls for cls in ResultFile.__subclasses__() if cls.__module__.startswith(results.__name__)]
    assert len(own) >= 10
    return own


def keys_of(schema: Any) -> set[str]:
    """Every key that a schema names, at any depth."""
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    own = set(schema.get("properties", ())) if isinstance(schema, dict) else set()
    return own.union(*map(keys_of, parts))


def indexed(code: str) -> Iterator[tuple[int, str, str]]:
    """Line, what is indexed, and the constant text: ``x["key"]``, ``x.get("key")``, ``within(x, "key")``."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            owner, words = node.value, [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            owner, words = node.func.value, node.args[:1]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "within":
            owner, words = node.args[0], node.args[1:]
        else:
            continue
        told = ast.unparse(owner.func if isinstance(owner, ast.Call) else owner)
        for word in words:
            if isinstance(word, ast.Constant) and isinstance(word.value, str):
                yield node.lineno, told, word.value


def outside(place: str, code: str, keys: set[str]) -> list[str]:
    """Where a file of the package indexes something by a key of a result file."""
    passed = set().union(*OTHERS.values())
    for start, owners in HERE.items():
        if place.startswith(start):
            if owners is None:
                return []
            passed |= owners
    return [
        f"{place}:{line}: {owner} by {word!r}"
        for line, owner, word in indexed(code)
        if word in keys and owner not in passed
    ]


def test_no_key_of_a_result_file_stands_outside_its_class() -> None:
    keys = set().union(*(keys_of(cls.model_json_schema()) for cls in classes_of_files()))
    package = ROOT / "src" / "foveate"
    places = {path.relative_to(package).as_posix(): path for path in sorted(package.rglob("*.py"))}
    found = [
        line
        for place, path in places.items()
        if place.startswith(READERS)
        for line in outside(place, path.read_text(encoding="utf-8"), keys)
    ]
    assert not found, "\n".join(["read these by the attributes of their class:", *found])


def test_a_key_outside_its_class_would_be_found() -> None:
    code = 'metrics["per_class"]\nshift.get("sentences")\nwithin(files.trust, "methods")\nrow["n"]\n'
    keys = {"per_class", "sentences", "methods", "n"}
    assert len(outside("report/planted.py", code, keys)) == 3
    assert len(outside("stations/shortcuts/planted.py", code, keys)) == 0


def test_the_report_holds_every_result_file_as_its_class() -> None:
    kept = get_type_hints(RunFiles)
    held = {kind for union in kept.values() for kind in get_args(union)}
    lacking = {cls.NAME for cls in classes_of_files() if cls not in held}
    assert lacking == {
        "comparison.json",
        "cautions.json",
    }  # of several runs; made by the report
