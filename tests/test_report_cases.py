"""Sheets of cases: the right ones are chosen, and each heat map is shown for what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.evaluate.table import PredictionTable, read_predictions, write_predictions
from foveate.maps.heatmaps import MapEntry, read_index, write_case, write_index
from foveate.report.build import write_report
from foveate.report.pictures.cases import MAX_CARDS, MAX_PER_CLASS, choose
from foveate.report.pictures.overlays import Legend, overlay_uri, picture_uri
from foveate.types import Array, Heatmap, Prediction, Task
from page import Node, parse
from report_run import write_run

CLASSES = ("a", "b", "c")


def table(task: Task, rows: Sequence[tuple[tuple[float, ...], tuple[float, ...]]]) -> PredictionTable:
    """One case per row of (probabilities, truth)."""
    predictions = [
        Prediction(
            f"case{n}",
            f"patient{n}",
            "test",
            np.array(shares),
            np.array(shares),
            np.array(truth, dtype=float),
        )
        for n, (shares, truth) in enumerate(rows)
    ]
    return PredictionTable.of(task, CLASSES, predictions)


def picks(
    found: PredictionTable, index: int, shown: Sequence[bool] | None = None
) -> list[list[tuple[int, tuple[int, ...]]]]:
    everything = np.ones(len(found.case_ids), dtype=bool) if shown is None else np.array(shown)
    return [list(choice.picks) for choice in choose(found, found.decisions(), index, everything)]


def test_one_of_many_classes_is_right_or_taken_for_another() -> None:
    found = table(
        "multiclass",
        [
            ((0.6, 0.3, 0.1), (1, 0, 0)),
            ((0.9, 0.1, 0.0), (1, 0, 0)),
            ((0.2, 0.7, 0.1), (1, 0, 0)),
            ((0.1, 0.0, 0.9), (1, 0, 0)),
            ((0.0, 1.0, 0.0), (0, 1, 0)),
            ((0.8, 0.1, 0.1), (np.nan, np.nan, np.nan)),
        ],
    )
    right, wrong = picks(found, 0)
    assert right == [(1, (0,)), (0, (0,))], "the most confident first"
    assert wrong == [(3, (2, 0)), (2, (1, 0))], "the map of what was said, then that of what was true"
    assert picks(found, 0, [True, False, True, False, True, True]) == [[(0, (0,))], [(2, (1, 0))]]
    assert picks(found, 2) == [[], []]


def test_patients_take_turns() -> None:
    found = table("multiclass", [((share, 0, 0), (1, 0, 0)) for share in (0.5, 0.9, 0.8, 0.7, 0.6)])
    found = replace(found, patient_ids=("x", "y", "y", "y", "z"))
    right, _ = picks(found, 0)
    assert [row for row, _ in right] == [1, 4, 0, 2, 3], "0.9 of y, 0.6 of z, 0.5 of x, then y again"


def test_a_finding_is_found_falsely_raised_or_missed() -> None:
    found = table(
        "multilabel",
        [
            ((0.6, 0, 0), (1, 0, 0)),
            ((0.9, 0, 0), (1, 1, 0)),
            ((0.7, 0, 0), (0, 1, 0)),
            ((0.8, 0, 0), (0, 0, 0)),
            ((0.3, 0, 0), (1, 0, 0)),
            ((0.1, 0, 0), (1, 0, 0)),
            ((0.95, 0, 0), (np.nan, 0, 0)),
            ((0.2, 0, 0), (0, 0, 0)),
        ],
    )
    assert [[row for row, _ in kind] for kind in picks(found, 0)] == [[1, 0], [3, 2], [5, 4]]
    assert all(about == (0,) for kind in picks(found, 0) for _, about in kind)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A run of four cases, two views each, whose heat maps are set by hand."""
    truths = {"<b>1</b>": "a", "two": "a", "three": "a", "lost": "a"}
    shares = {
        "<b>1</b>": (0.7, 0.2, 0.1),
        "two": (0.6, 0.3, 0.1),
        "three": (0.1, 0.8, 0.1),
        "lost": (0.5, 0.3, 0.2),
    }
    predictions = [
        Prediction(name, f"p-{name}", "test", np.array(shares[name]), np.array(shares[name]), np.eye(3)[0])
        for name in truths
    ]
    write_predictions(tmp_path / "predictions.csv", "multiclass", CLASSES, predictions)
    entries = []
    for name in truths:
        for view in ("ct", "pet"):
            file = f"{len(entries)}.npz"
            entries.append(MapEntry(name, f"p-{name}", "test", view, "gradcam", ("a",), "a", "a", 0.5, file))
            if name != "lost":
                maps = [Heatmap(hand_made(name, view), "a", "gradcam", view, name)]
                write_case(tmp_path / "heatmaps" / file, maps, np.full((10, 8), 99, dtype=np.uint8), None)
    write_index(tmp_path / "heatmaps", entries)
    (tmp_path / "boxes.csv").write_text("case_id,view,target,x,y,w,h,score\n<b>1</b>,ct,a,1,2,3,4,0.5\n")
    return tmp_path


def hand_made(name: str, view: str) -> Array:
    values = np.zeros((20, 16), dtype=np.float32)
    if name == "<b>1</b>":
        values[4, 4], values[10, 10] = 0.5, -0.25 if view == "ct" else 0
    if name == "two" and view == "pet":
        values[:] = -0.75
    return values


def card(folder: Path, case: str) -> Node:
    page = parse(write_report(folder).read_text())
    found = page.one("section", data_class="a").one("article", data_case=case)
    return found


def test_every_view_has_its_picture_its_map_and_its_range(single: Path) -> None:
    panels = card(single, "<b>1</b>").all("span", class_="panel")
    assert [panel.one("span", class_="title").text for panel in panels] == [
        "ct",
        "Evidence for a",
        "pet",
        "Evidence for a",
    ]
    signed, positive = panels[1], panels[3]
    assert [node.text for node in signed.one("span", class_="ends").all("span")] == ["−0.5", "0", "0.5"]
    assert signed.one("span", class_="range").text == "raw −0.25 … 0.5"
    assert [node.text for node in positive.one("span", class_="ends").all("span")] == ["0", "0.5"]
    assert len(signed.all("rect", class_="found")) == 1 and not positive.all("rect"), (
        "boxes belong to their view"
    )
    assert len(panels[0].all("image")) == 1 and len(signed.all("image")) == 1, "picture once, overlay on top"


def test_a_map_without_evidence_is_called_empty_and_nothing_is_drawn(single: Path) -> None:
    for panel, words in zip(
        card(single, "two").all("span", class_="panel")[1::2], ("raw 0 … 0", "raw −0.75 … −0.75"), strict=True
    ):
        assert panel.one("span", class_="stamp").text == "empty"
        assert not panel.all("image") and not panel.all("span", class_="bar")
        assert panel.one("span", class_="range").text == f"nothing speaks for the class; {words}"


def test_maps_with_a_caveat_are_shown_with_it(single: Path) -> None:
    plain = parse(write_report(single).read_text()).one("section", id="cases")
    assert "Beware" not in plain.text
    entries = [replace(entry, explainer="guided_gradcam") for entry in read_index(single / "heatmaps")]
    write_index(single / "heatmaps", entries)
    section = parse(write_report(single).read_text()).one("section", id="cases")
    said = section.one("p", data_method="guided_gradcam").text
    assert said.startswith("Beware of guided_gradcam: guided maps stay much the same when") and "Nie" in said


def test_what_is_missing_is_said_on_the_card(single: Path) -> None:
    wrong = card(single, "three")
    titles = [panel.one("span", class_="title").text for panel in wrong.all("span", class_="panel")]
    assert titles == ["ct", "Evidence for b", "Evidence for a", "pet", "Evidence for b", "Evidence for a"]
    assert "no heat map was made for this class" in wrong.all("span", class_="panel")[1].text
    assert "true a · predicted b · b: 0.80" in wrong.text
    lost = card(single, "lost")
    assert not lost.all("span", class_="panel") and f"foveate explain {single}" in lost.text


@pytest.mark.parametrize(
    "arrays",
    [
        {"values": np.zeros((2, 4, 4), np.float32)},
        {"values": np.zeros((1, 4, 4, 4), np.float32)},
        {"truth": np.zeros((5, 4), bool)},
        {"targets": None},
    ],
)
def test_heat_maps_that_do_not_fit_together_cost_one_card(
    single: Path, arrays: dict[str, Array | None]
) -> None:
    good = {
        "values": np.zeros((1, 4, 4), np.float32),
        "targets": np.array(["a"]),
        "picture": np.zeros((4, 4), np.uint8),
    }
    content = {name: values for name, values in {**good, **arrays}.items() if values is not None}
    np.savez(single / "heatmaps" / "0.npz", allow_pickle=False, **content)
    assert "No pictures" in card(single, "<b>1</b>").text
    assert card(single, "two").all("span", class_="panel")


@pytest.mark.slow
def test_large_cohorts_have_a_few_cases_of_each_finding(tmp_path: Path) -> None:
    names = tuple(f"finding {number}" for number in range(14))
    folder = write_run(tmp_path, task="multilabel", classes=names, patients=24, per_patient=3)
    page = parse(write_report(folder).read_text())
    found = read_predictions(folder / "predictions.csv").part("test")
    for index, name in enumerate(names):
        sheet = page.one("section", data_class=name)
        assert 0 < len(sheet.all("article")) <= MAX_PER_CLASS
        totals = [heading.text.split()[-1] for heading in sheet.all("h4")]
        assert totals == [str(total) for total in totals_of(found, index) if total]


def totals_of(found: PredictionTable, index: int) -> list[int]:
    """How many explained cases were found, falsely raised and missed, counted without the code under test."""
    score, truth = found.probabilities[:, index], found.truth[:, index]
    explained = (found.truth == 1).any(axis=1) | (found.probabilities >= 0.5).any(axis=1)
    kinds = (truth == 1) & (score >= 0.5), (truth == 0) & (score >= 0.5), (truth == 1) & (score < 0.5)
    return [int((kind & explained).sum()) for kind in kinds]


def test_the_pictures_of_a_full_page_can_still_be_sent() -> None:
    """Even a page full of pure noise, every second one with two heat maps, stay below 8 MB."""
    draws = np.random.default_rng(0)
    picture = len(picture_uri(draws.integers(0, 256, (512, 512)).astype(np.uint8)))
    coarse = draws.normal(size=(14, 14)).astype(np.float32)
    values = np.asarray(Image.fromarray(coarse).resize((512, 512), Image.Resampling.BILINEAR))
    overlay = len(overlay_uri(values, Legend.of(values)))
    assert MAX_CARDS * (picture + 1.5 * overlay) < 8e6
