"""Means of the shares of views: cases worked by hand, and the file that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.results.views import ShareMeans, ViewShares
from foveate.evaluate.view_shares import mean_shares
from foveate.maps.heatmaps import Share, write_shares
from foveate.report.build import write_report
from foveate.stations.report import report
from foveate.stations.run import Run
from foveate.stations.views import note_views
from foveate.study.study import Study
from page import parse
from report_run import write_run

ONE = Share("a", "p", "test", "x", "v", 1.0, 0.2, "missing")


def means_of(rows: Sequence[Share], bootstrap: Bootstrap) -> dict[str, ShareMeans]:
    return mean_shares(rows, bootstrap).parts["test"].classes["x"]


def test_intervals_of_shares_draw_patients() -> None:
    """Two patients of unlike size: replicates hold one of them, or both, as they come."""
    rows = [ONE, *(Share(f"b{n}", "q", "test", "x", "v", 3.0, 0.8, "missing") for n in range(3))]
    found = means_of(rows, Bootstrap(400))
    assert list(found) == ["v"], "a view that no case has is left out"
    assert found["v"].value.value == pytest.approx(2.5)
    assert found["v"].evidence.value == pytest.approx(0.65)
    assert (found["v"].value.low, found["v"].value.high) == (1.0, 3.0)
    assert found["v"].attribution.value == 1.0, "the only view of a case has all of it"
    silent = means_of([replace(ONE, value=0.0)], Bootstrap(0))
    assert silent["v"].attribution.value is None, "where nothing counts, no share is defined"


def test_a_view_has_its_share_of_what_all_views_of_the_case_move() -> None:
    """By hand: of |3| + |-1| the first view has three quarters; the second's mean is over one case."""
    rows = [
        replace(ONE, value=3.0),
        replace(ONE, value=-1.0, view="w", share=0.8),
        replace(ONE, case_id="b", patient_id="q", value=-2.0, share=1.0),
    ]
    found = means_of(rows, Bootstrap(0))
    assert found["v"].attribution.value == pytest.approx((0.75 + 1) / 2)
    assert found["v"].value.value == pytest.approx(0.5) and found["w"].value.value == -1.0
    assert (found["v"].evidence.n, found["w"].evidence.n) == (2, 1)


def test_parts_and_classes_are_apart_and_the_file_is_read_back(tmp_path: Path) -> None:
    rows = [
        ONE,
        replace(ONE, split="val", value=9.0, withheld="blank", sampled=True),
        replace(ONE, case_id="b", split="val", target="y", value=4.0),
    ]
    made = mean_shares(rows, Bootstrap(100, seed=3))
    made.write(tmp_path)
    assert ViewShares.read(tmp_path) == made.model_copy(update={"format": 1})
    assert (made.bootstrap.n, made.bootstrap.seed, made.bootstrap.interval) == (100, 3, "percentile")
    test, val = made.parts["test"], made.parts["val"]
    assert (test.cases, test.withheld, test.sampled) == (1, ("missing",), False)
    assert (val.cases, val.withheld, val.sampled) == (2, ("blank", "missing"), True)
    assert val.classes["x"]["v"].value.value == 9.0 and val.classes["y"]["v"].value.value == 4.0


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of two views as the report wants it, with a study of its own."""
    folder = write_run(tmp_path / "run", classes=("a", "b"), patients=8, views=("photo", "echo"))
    (folder / "study.yaml").unlink()
    choices = {
        "name": "views",
        "data": {"manifest": tmp_path / "none.csv"},
        "evaluate": {"bootstrap": 150, "level": 0.9, "interval": "bca"},
        "seed": 7,
    }
    return Run.create(Study.model_validate(choices), folder)


def test_intervals_are_made_as_the_study_says(run: Run) -> None:
    draws = np.random.default_rng(0)
    rows = [replace(ONE, case_id=f"{n}", patient_id=f"{n}", value=draws.normal()) for n in range(12)]
    note_views(run, rows)
    written = ViewShares.read(run.folder)
    assert written is not None
    expected = means_of(rows, Bootstrap(150, 0.9, 7, "bca"))
    assert written.parts["test"].classes["x"] == expected
    assert written.bootstrap.interval == "bca" and (written.bootstrap.level, written.bootstrap.seed) == (
        0.9,
        7,
    )
    assert expected["v"].value != means_of(rows, Bootstrap(150, 0.9, 7))["v"].value
    note_views(run, [])
    assert not (run.folder / "views.json").exists(), "explained again with one view, nothing old is left"


@pytest.mark.slow
def test_a_run_of_an_older_version_gets_the_file_when_it_is_reported(run: Run) -> None:
    """0.1.0 left the shares of single cases alone; the page itself computes nothing."""
    rows = [replace(ONE, case_id=f"{n}", patient_id=f"{n}", target="a", view="echo") for n in range(5)]
    (run.folder / "views.json").unlink()
    write_shares(run.folder / "heatmaps", rows)
    bare = parse(write_report(run.folder).read_text()).one("section", id="views")
    assert "foveate explain" in bare.text and not bare.all("table", class_="shares")
    page = parse(report(run).read_text()).one("section", id="views")
    cells = page.one("tr", data_class="a", data_view="echo").all("td")
    assert cells[1].text == "5" and [cell.numbers[0] for cell in cells[2:]] == [1.0, 0.2, 1.0]
