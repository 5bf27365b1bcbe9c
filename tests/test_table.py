"""The table of predictions: exact round trip, and refusals that name the row."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import InputRefused
from foveate.evaluate.table import PredictionTable, read_predictions, write_predictions
from foveate.types import Prediction, Task

NAN = float("nan")


def _prediction(case: str, truth: list[float], probabilities: list[float], split: str = "test") -> Prediction:
    logits = np.log(np.clip(probabilities, 1e-6, 1))
    return Prediction(case, f"patient of {case}", split, logits, np.array(probabilities), np.array(truth))


MULTICLASS = [
    _prediction("a", [1, 0, 0], [0.7, 0.2, 0.1], "val"),
    _prediction('Ünïcode, with "quotes"\nand a line', [0, 0, 1], [0.4, 0.4, 0.2]),
    _prediction("c", [NAN, NAN, NAN], [0.1, 0.1, 0.8]),
]
CLASSES = ("normal", "HCC, rim", "FNH")


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(path, "multiclass", CLASSES, MULTICLASS)
    read, made = read_predictions(path), PredictionTable.of("multiclass", CLASSES, MULTICLASS)
    assert (read.task, read.classes) == ("multiclass", CLASSES)
    assert (read.case_ids, read.patient_ids, read.splits) == (made.case_ids, made.patient_ids, made.splits)
    for name in ("logits", "probabilities", "truth"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    logit=st.floats(allow_nan=False, allow_infinity=False),
    probability=st.floats(0, 1),
    truth=st.sampled_from([0.0, 1.0, NAN]),
)
def test_every_double_survives(
    tmp_path_factory: pytest.TempPathFactory, logit: float, probability: float, truth: float
) -> None:
    path = tmp_path_factory.mktemp("table") / "predictions.csv"
    one = Prediction("a", "p", "", np.array([logit]), np.array([probability]), np.array([truth]))
    write_predictions(path, "multilabel", ["Mass"], [one])
    read = read_predictions(path)
    assert read.logits.tobytes() == one.logits.tobytes()  # the sign of zero included
    assert read.probabilities.tobytes() == one.probabilities.tobytes()
    np.testing.assert_array_equal(read.truth, [one.truth])


def test_the_columns_are_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(path, "multiclass", CLASSES, MULTICLASS)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:5] == ["task", "case_id", "patient_id", "split", "predicted"]
    assert list(rows[0])[5:8] == [f"true:{name}" for name in CLASSES]
    assert list(rows[0])[8:11] == [f"prob:{name}" for name in CLASSES]
    assert list(rows[0])[11:] == [*(f"logit:{name}" for name in CLASSES), "views", "noticed"]
    assert [row["predicted"] for row in rows] == ["normal", "normal", "FNH"]  # the first of equals
    assert rows[2]["true:FNH"] == ""
    assert rows[1]["true:FNH"] == "1"
    assert rows[0]["prob:normal"] == "0.7"


def test_predicted_findings_follow_their_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    found = [_prediction("a", [1, 0], [0.5, 0.49]), _prediction("b", [1, NAN], [0.6, 0.95])]
    write_predictions(path, "multilabel", ["Mass", "Nodule"], found)
    assert _predicted(path) == ["Mass", "Mass;Nodule"]
    write_predictions(path, "multilabel", ["Mass", "Nodule"], found, thresholds={"Mass": 0.55, "Nodule": 0.1})
    assert _predicted(path) == ["Nodule", "Mass;Nodule"]


def test_the_views_of_each_case_come_back_and_are_blank_where_nobody_says(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    views = [("t2", "c+a"), ("t2",), ()]
    write_predictions(
        path,
        "multiclass",
        CLASSES,
        [replace(item, views=names) for item, names in zip(MULTICLASS, views, strict=True)],
    )
    read = read_predictions(path)
    assert read.views == ("t2+c+a", "t2", "")
    assert read.part("test").views == ("t2", "")


def test_parts_keep_rows_together() -> None:
    part = PredictionTable.of("multiclass", CLASSES, MULTICLASS).part("test")
    assert part.case_ids == (MULTICLASS[1].case_id, "c")
    assert part.views == ("", "")
    np.testing.assert_array_equal(part.probabilities, [[0.4, 0.4, 0.2], [0.1, 0.1, 0.8]])
    assert PredictionTable.of("multiclass", CLASSES, []).truth.shape == (0, 3)


def test_a_file_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """Byte-order mark, other column order, an extra column, blank lines."""
    path = tmp_path / "predictions.csv"
    path.write_text(
        "\ufeffcase_id,note,task,patient_id,split,predicted,logit:A,prob:A,true:A\r\n"
        "a,hello,multilabel,p,test,A,2,0.88,1\r\n\r\n",
        encoding="utf-8",
    )
    table = read_predictions(path)
    assert (table.case_ids, table.truth.tolist(), table.logits.tolist()) == (("a",), [[1.0]], [[2.0]])
    assert table.views == ("",)  # a file without the column is read as well


HEADER = "task,case_id,patient_id,split,predicted,true:A,true:B,prob:A,prob:B,logit:A,logit:B\n"
GOOD = "multiclass,a,p,test,A,1,0,0.9,0.1,2,0\n"


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("", "columns-missing", "columns are missing"),
        (HEADER, "no-predictions", "no prediction"),
        (HEADER.replace(",logit:B", "") + GOOD, "columns-missing", "logit:B"),
        (HEADER.replace("true:", "truth:") + GOOD, "columns-missing", "true:<class>"),
        (HEADER.replace("\n", ",split\n") + GOOD, "columns-doubled", "twice"),
        (HEADER + GOOD + GOOD.replace("\n", ",7\n"), "bad-row", "row 3 has 12 fields"),
        (HEADER + GOOD + GOOD, "case-doubled", "row 2 and in row 3"),
        (HEADER + GOOD + GOOD.replace("multiclass,a", "multilabel,b"), "bad-task", "task"),
        (HEADER + GOOD.replace("multiclass", "regression"), "bad-task", "multiclass, multilabel"),
        (HEADER + GOOD.replace("0.9", "nine"), "not-a-number", "row 2.*nine"),
        (HEADER + GOOD.replace("0.9", "1.9"), "bad-probability", "row 2"),
        (HEADER + GOOD.replace("0.9", ""), "bad-probability", "row 2"),
        (HEADER + GOOD.replace("0.9", "nan"), "bad-probability", "row 2"),
        (HEADER + GOOD.replace(",2,0\n", ",inf,0\n"), "bad-logit", "row 2"),
        (HEADER + GOOD.replace(",1,0,", ",2,0,"), "bad-truth", "row 2"),
        (HEADER + GOOD.replace(",1,0,", ",1,1,"), "bad-truth", "exactly one"),
        (HEADER + GOOD.replace(",1,0,", ",0,,"), "bad-truth", "exactly one"),
        (HEADER + GOOD.replace(",p,", ",,"), "patient-missing", "row 2"),
    ],
)
def test_damaged_files_are_refused_by_row(tmp_path: Path, content: str, code: str, message: str) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputRefused, match=message) as refusal:
        read_predictions(path)
    assert refusal.value.code == code
    assert str(path) in str(refusal.value)


def test_what_is_no_csv_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(InputRefused, match="CSV in UTF-8"):
        read_predictions(path)
    with pytest.raises(InputRefused, match="No such file"):
        read_predictions(tmp_path / "absent.csv")


def test_what_the_bundle_can_tell_further_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    found = [
        replace(
            item,
            calibrated=np.array([0.1 + 0.2, NAN, 0.7]),
            novelty=1 / 3 + number,
            answer_set=("normal", "FNH")[:number],
            abstain=("novel", "set-large")[:number],
        )
        for number, item in enumerate(MULTICLASS)
    ]
    write_predictions(path, "multiclass", CLASSES, found)
    read = read_predictions(path)
    np.testing.assert_array_equal(read.calibrated, np.stack([item.calibrated for item in found]))
    np.testing.assert_array_equal(read.novelty, [item.novelty for item in found])
    only = read.only(np.array([False, True, True]))
    np.testing.assert_array_equal(only.novelty, read.novelty[1:])
    np.testing.assert_array_equal(only.calibrated, read.calibrated[1:])
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    calibrated = [f"calibrated:{name}" for name in CLASSES]
    assert list(rows[0])[14:] == ["views", *calibrated, "novelty", "set", "abstain", "noticed"]
    assert [row["set"] for row in rows] == ["", "normal", "normal;FNH"]
    assert [row["abstain"] for row in rows] == ["", "novel", "novel;set-large"]
    assert read.doubts == ("", "novel", "novel;set-large") and only.doubts == read.doubts[1:]


def test_files_without_further_columns_know_nothing_further(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(path, "multiclass", CLASSES, MULTICLASS)
    read = read_predictions(path)
    assert np.isnan(read.calibrated).all() and read.calibrated.shape == (3, 3)
    assert np.isnan(read.novelty).all() and read.novelty.shape == (3,)
    assert read.doubts == ("", "", "")


@pytest.mark.parametrize(
    ("cell", "code"), [("often", "not-a-number"), ("1.5", "bad-probability"), ("-0.1", "bad-probability")]
)
def test_damaged_calibrated_probabilities_are_refused(tmp_path: Path, cell: str, code: str) -> None:
    path = tmp_path / "predictions.csv"
    header = HEADER.replace("\n", ",calibrated:A,calibrated:B\n")
    path.write_text(header + GOOD.replace("\n", f",{cell},0.5\n"), encoding="utf-8")
    with pytest.raises(InputRefused) as refusal:
        read_predictions(path)
    assert refusal.value.code == code


def _predicted(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [row["predicted"] for row in csv.DictReader(stream)]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_decisions(task: Task) -> None:
    table = PredictionTable.of(task, ("A", "B"), [_prediction("a", [1, 0], [0.5, 0.5])])
    expected = [[True, False]] if task == "multiclass" else [[True, True]]
    assert table.decisions().tolist() == expected
